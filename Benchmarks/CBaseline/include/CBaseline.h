#ifndef CBASELINE_H
#define CBASELINE_H
#endif
