// Touches memory that may answer with a signal, and says which; holds a page as a forgetful device would.
// For tools and tests only.
#ifndef CTOUCH_H
#define CTOUCH_H

#include <stdint.h>

struct ctouch_result {
    int signal;        // 0 when the byte could be touched, else SIGBUS or SIGSEGV
    int code;          // si_code, e.g. BUS_ADRERR
    uint64_t address;  // si_addr
    uint8_t value;     // what was read
};

// Reads the byte. The first call installs handlers for SIGBUS and SIGSEGV; a signal that no touch of
// this thread caused goes to the handler that was there before.
struct ctouch_result ctouch_read(const volatile void *address);
// Writes the byte.
struct ctouch_result ctouch_write(volatile void *address, uint8_t value);

// Puts the page into the pipe without copying (vmsplice): a real pin that lasts until the pipe is read or
// closed. Returns the bytes that went in, or -errno.
long ctouch_pin(int pipe_writing_end, void *page, unsigned long count);

// Runs the body in a forked child and returns its exit code, or 128 + the signal that ended it: SIGALRM
// when it took longer than ten seconds.
int ctouch_in_child(int (*body)(void *context), void *context);

#endif
