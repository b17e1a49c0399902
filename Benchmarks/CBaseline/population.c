#include "include/CBaseline.h"
