/* A stand-in for NVIDIA's management library: the functions that the agent calls, with the C interface of nvml.h.
 * What it says is set by the file `state` beside it, one "KEY VALUE" a line, read anew whenever it changes:
 *   init CODE          what opening the library returns
 *   driver N           which driver is loaded: after a change every call fails until the library is opened again
 *   count N            GPUs
 *   I.util P, I.odd P  percent in samples with an even and an odd number; a sample every 100 ms of the clock
 *   I.before P         percent in samples from before the library was opened; absent: as after it
 *   I.buffer CODE      what the buffer of samples returns       I.rates CODE   likewise the last second's rate
 *   I.used B, I.total B, I.memory CODE
 *   I.sm P             activity in percent; absent: not supported
 *   I.lost 1           every call about this GPU says so        I.hang 1   every call about it waits until this is 0
 *   I.mig N            in MIG mode, with N parts */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { GPUS = 16, PARTS = 8, BUFFER = 120, PERIOD_US = 100000 };
enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, GPU_LOST = 15 };

typedef struct {
    long util, odd, before, buffer, rates, used, total, memory, sm, lost, hang, mig;
} Gpu;
typedef struct { long init, driver, count; Gpu gpus[GPUS]; } State;
typedef struct { int gpu, part; } Device;
typedef struct { unsigned long long t; union { unsigned u; unsigned long long ull; double d; } v; } Sample;

/* When the library was opened, and of which driver. */
static unsigned long long opened_us;
static long opened_driver;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Device devices[GPUS][PARTS + 1];

static void set(State *s, const char *key, long value) {
    char name[32];
    int at;
    if (!strcmp(key, "init")) s->init = value;
    else if (!strcmp(key, "driver")) s->driver = value;
    else if (!strcmp(key, "count")) s->count = value;
    else if (sscanf(key, "%d.%31s", &at, name) == 2 && at >= 0 && at < GPUS) {
        Gpu *g = &s->gpus[at];
#define FIELD(f) if (!strcmp(name, #f)) g->f = value;
        FIELD(util) FIELD(odd) FIELD(before) FIELD(buffer) FIELD(rates) FIELD(used) FIELD(total)
        FIELD(memory) FIELD(sm) FIELD(lost) FIELD(hang) FIELD(mig)
    }
}

static State now(void) {
    static State state;
    static struct timespec seen;
    static char path[4096];
    struct stat file;
    pthread_mutex_lock(&lock);
    if (!*path) {
        Dl_info own;
        dladdr((void *)now, &own);
        snprintf(path, sizeof path, "%s", own.dli_fname);
        char *slash = strrchr(path, '/');
        snprintf(slash ? slash + 1 : path, 32, "state");
    }
    if (!stat(path, &file) && memcmp(&seen, &file.st_mtim, sizeof seen)) {
        char key[64];
        long value;
        FILE *f = fopen(path, "r");
        memset(&state, 0, sizeof state);
        for (int i = 0; i < GPUS; i++) { state.gpus[i].sm = -1; state.gpus[i].odd = -1; state.gpus[i].before = -1; }
        while (f && fscanf(f, "%63s %ld", key, &value) == 2) set(&state, key, value);
        if (f) fclose(f);
        seen = file.st_mtim;
    }
    State copy = state;
    pthread_mutex_unlock(&lock);
    return copy;
}

/* The state of this GPU, or why it does not answer. */
static int gpu(Device *d, Gpu *out) {
    if (!d) return INVALID;
    while (*out = now().gpus[d->gpu], out->hang) usleep(10000);
    if (now().driver != opened_driver) return UNINITIALIZED;
    return out->lost ? GPU_LOST : OK;
}
#define GPU(d) Gpu g; int refused = gpu(d, &g); if (refused) return refused

static unsigned long long clock_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * 1000000ULL + t.tv_nsec / 1000;
}

static int open_library(void) {
    State s = now();
    opened_us = clock_us();
    opened_driver = s.driver;
    return (int)s.init;
}

int nvmlInit_v2(void) { return open_library(); }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return open_library(); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { (void)code; return "an error"; }
int nvmlSystemGetDriverVersion(char *out, unsigned n) { snprintf(out, n, "580.82.07"); return OK; }
int nvmlDeviceGetCount_v2(unsigned *n) {
    State s = now();
    *n = (unsigned)s.count;
    return s.driver == opened_driver ? OK : UNINITIALIZED;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned i, Device **out) {
    if (i >= GPUS || i >= now().count) return INVALID;
    *out = &devices[i][0];
    (*out)->gpu = (int)i;
    (*out)->part = 0;
    GPU(*out);
    return OK;
}

int nvmlDeviceGetUUID(Device *d, char *out, unsigned n) {
    GPU(d);
    if (d->part) snprintf(out, n, "MIG-%d-%d", d->gpu, d->part - 1);
    else snprintf(out, n, "GPU-%d", d->gpu);
    return OK;
}

int nvmlDeviceGetName(Device *d, char *out, unsigned n) { GPU(d); snprintf(out, n, "Stand-in %d", d->gpu); return OK; }

int nvmlDeviceGetMigMode(Device *d, unsigned *current, unsigned *pending) {
    GPU(d);
    *current = *pending = g.mig > 0;
    return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(Device *d, unsigned *n) { GPU(d); *n = PARTS; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(Device *d, unsigned i, Device **out) {
    GPU(d);
    if (i >= g.mig || i >= PARTS) return NOT_FOUND;
    *out = &devices[d->gpu][i + 1];
    (*out)->gpu = d->gpu;
    (*out)->part = (int)i + 1;
    return OK;
}

int nvmlDeviceGetSamples(Device *d, int type, unsigned long long last, int *kind, unsigned *n, Sample *out) {
    (void)type;
    GPU(d);
    if (d->part) return NOT_SUPPORTED;
    if (g.buffer) return (int)g.buffer;
    unsigned long long newest = clock_us() / PERIOD_US, first = newest - BUFFER + 1, number;
    if (last / PERIOD_US + 1 > first) first = last / PERIOD_US + 1;
    unsigned room = out ? *n : BUFFER, found = 0;
    for (number = first; number <= newest && found < room; number++, found++)
        if (out) {
            out[found].t = number * PERIOD_US;
            out[found].v.ull = 0;
            long percent = number % 2 && g.odd >= 0 ? g.odd : g.util;
            if (g.before >= 0 && number * PERIOD_US < opened_us) percent = g.before;
            out[found].v.u = (unsigned)percent;
        }
    *kind = 1;
    *n = found;
    return found ? OK : NOT_FOUND;
}

int nvmlDeviceGetUtilizationRates(Device *d, unsigned *out) {
    GPU(d);
    if (d->part) return NOT_SUPPORTED;
    out[0] = (unsigned)g.util;
    out[1] = 99; /* the memory's bandwidth, which nobody wants */
    return (int)g.rates;
}

typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory;
int nvmlDeviceGetMemoryInfo_v2(Device *d, Memory *out) {
    GPU(d);
    out->total = (unsigned long long)g.total;
    out->used = (unsigned long long)g.used;
    out->free = out->total - out->used;
    return (int)g.memory;
}

typedef struct { unsigned id; int code; double value; char *names[3]; } Metric;
typedef struct { unsigned version, n; Device **a, **b; Metric metrics[210]; } Metrics;

int nvmlGpmQueryDeviceSupport(Device *d, unsigned *out) { GPU(d); out[1] = g.sm >= 0; return OK; }
int nvmlGpmSampleAlloc(Device ***out) { return (*out = calloc(1, sizeof **out)) ? OK : INVALID; }
int nvmlGpmSampleFree(Device **sample) { free(sample); return OK; }
int nvmlGpmSampleGet(Device *d, Device **sample) { GPU(d); *sample = d; return g.sm >= 0 ? OK : NOT_SUPPORTED; }
int nvmlGpmMetricsGet(Metrics *m) {
    GPU(*m->b);
    for (unsigned i = 0; i < m->n; i++) {
        static char name[] = "x";
        for (int j = 0; j < 3; j++) m->metrics[i].names[j] = name;
        m->metrics[i].code = m->metrics[i].id == 2 ? OK : NOT_SUPPORTED;
        m->metrics[i].value = (double)g.sm;
    }
    return OK;
}
