#define _GNU_SOURCE
#include "include/CTouch.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

// One touch at a time per thread; the handlers are process-wide.
static __thread sigjmp_buf *volatile landing;
static __thread struct ctouch_result *volatile report;
static struct sigaction previous_bus, previous_segv;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void on_signal(int signal, siginfo_t *info, void *context) {
    if (landing != NULL) {
        report->signal = signal;
        report->code = info->si_code;
        report->address = (uint64_t)info->si_addr;
        siglongjmp(*landing, 1);
    }
    struct sigaction *previous = signal == SIGBUS ? &previous_bus : &previous_segv;
    if (previous->sa_flags & SA_SIGINFO) {
        previous->sa_sigaction(signal, info, context);
    } else {
        // Default or ignore: put it back and let the instruction fault again under it.
        sigaction(signal, previous, NULL);
    }
}

static void install(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    sigaction(SIGBUS, &action, &previous_bus);
    sigaction(SIGSEGV, &action, &previous_segv);
}

// Guest bytes are raced for on purpose.
__attribute__((no_sanitize("thread"))) static struct ctouch_result touch(volatile uint8_t *address, int write, uint8_t value) {
    pthread_once(&once, install);
    struct ctouch_result result;
    memset(&result, 0, sizeof result);
    sigjmp_buf here;
    report = &result;
    landing = &here;
    // With the mask: a sanitizer's handler may run with every signal blocked.
    if (sigsetjmp(here, 1) == 0) {
        if (write)
            *address = value;
        else
            *(volatile uint8_t *)&result.value = *address;
    }
    landing = NULL;
    report = NULL;
    return result;
}

struct ctouch_result ctouch_read(const volatile void *address) { return touch((volatile uint8_t *)address, 0, 0); }

struct ctouch_result ctouch_write(volatile void *address, uint8_t value) {
    return touch((volatile uint8_t *)address, 1, value);
}

long ctouch_pin(int pipe_writing_end, void *page, unsigned long count) {
    struct iovec part = {page, count};
    long result = vmsplice(pipe_writing_end, &part, 1, 0);
    return result < 0 ? -(long)errno : result;
}

int ctouch_in_child(int (*body)(void *context), void *context) {
    pid_t child = fork();
    if (child == 0) {
        // Worker threads run with signals blocked, and the child is a copy of one.
        sigset_t all;
        sigfillset(&all);
        sigprocmask(SIG_UNBLOCK, &all, NULL);
        alarm(10);
        _exit(body(context));
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child)
        return -1;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
