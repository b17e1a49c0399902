// The whole C shim. It decides nothing: one inline function per system call, each returning a value
// or -errno, and own-named copies of the kernel's structures and numbers, because the headers of a
// build machine (Debian 12: linux-libc-dev 6.1) know nothing of guest_memfd, and because what Swift
// sees must not depend on the build machine. src/layout.c pins every copy.
#ifndef CGMEM_H
#define CGMEM_H

// No _GNU_SOURCE here: a Swift file that imports Glibc too would see two different definitions of fd_set.
// What libc hides without it is called by number.
#include "cgmem_kvm.h"
#include "cgmem_conversion.h"
#include "cgmem_vcpu.h"
#include "cgmem_userfaultfd.h"
#include "cgmem_memory.h"
#include "cgmem_syscalls.h"
#include "cgmem_threads.h"
#include "cgmem_emulator.h"

#endif
