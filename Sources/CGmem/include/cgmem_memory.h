// Numbers of the memory and file calls, the generic values that x86, arm64, riscv and s390 share.
#ifndef CGMEM_MEMORY_H
#define CGMEM_MEMORY_H

#include <stdint.h>

#define CGMEM_PROT_NONE 0
#define CGMEM_PROT_READ 1
#define CGMEM_PROT_WRITE 2
#define CGMEM_PROT_EXEC 4
#define CGMEM_MAP_SHARED 0x01
#define CGMEM_MAP_PRIVATE 0x02
#define CGMEM_MAP_FIXED 0x10
#define CGMEM_MAP_ANONYMOUS 0x20
#define CGMEM_MAP_NORESERVE 0x4000

#define CGMEM_MADV_DONTNEED 4
#define CGMEM_MADV_REMOVE 9
#define CGMEM_MADV_DONTFORK 10
#define CGMEM_MADV_HUGEPAGE 14
#define CGMEM_MADV_DONTDUMP 16
#define CGMEM_MADV_WIPEONFORK 18
#define CGMEM_MADV_POPULATE_READ 22     // Linux 5.14
#define CGMEM_MADV_POPULATE_WRITE 23    // Linux 5.14
#define CGMEM_MADV_GUARD_INSTALL 102    // Linux 6.13; file mappings 6.15
#define CGMEM_MADV_GUARD_REMOVE 103

#define CGMEM_FALLOC_FL_KEEP_SIZE 0x01
#define CGMEM_FALLOC_FL_PUNCH_HOLE 0x02

#define CGMEM_O_RDONLY 0x0
#define CGMEM_O_RDWR 0x2
#define CGMEM_O_CLOEXEC 0x80000
#define CGMEM_S_IFMT 0xF000u
#define CGMEM_S_IFREG 0x8000u
#define CGMEM_SEEK_DATA 3
#define CGMEM_SEEK_HOLE 4

// The parts of struct stat that the library asks for, in an order of its own.
struct cgmem_stat {
    uint64_t device;
    uint64_t inode;
    uint64_t size;
    uint64_t blocks;
    uint32_t mode;
    uint32_t reserved;
};

#endif
