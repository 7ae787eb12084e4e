/* A libnvidia-ml.so.1 for machines without a card: it answers what a file says, so that the real binding can be asked.
 *
 *     cc -shared -fPIC -o libnvidia-ml.so.1 nvml.c          (-DOLD_DRIVER: without what came after driver 450;
 *                                                           -DRELEASE='"2"': fits the kernel "system module 2" alone)
 *
 * The file named by STANDIN_NVML is read anew at every call; it may be replaced (by a rename) at any time. A line is
 * "SCOPE KEY VALUE": SCOPE is "system", a card ("0"), a MIG device ("0.1") or a pair of cards ("0+1"). A key that is
 * not there is not supported. A VALUE may also be one of the words of `outcome` below. The functions, structures and
 * codes are those of NVIDIA's NVML API reference.
 */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, SHORT = 7, NO_DRIVER = 9, LOST = 15, RESET = 16,
       NO_SLICE = 6, MISMATCH = 18, NOT_FOUND = 28, UNKNOWN = 999 };
enum { MOST = 64, LONGEST = 4096 };

typedef const char *Device;
typedef unsigned long long u64;

static char scopes[MOST][16];

static Device device(const char *scope) {
    for (int i = 0; i < MOST; i++) {
        if (!scopes[i][0])
            snprintf(scopes[i], sizeof scopes[i], "%s", scope);
        if (!strcmp(scopes[i], scope))
            return scopes[i];
    }
    abort();
}

static int outcome(const char *word) {
    static const struct { const char *word; int code; } words[] = {
        {"na", NOT_SUPPORTED}, {"denied", NO_PERMISSION}, {"no-driver", NO_DRIVER}, {"lost", LOST}, {"reset", RESET},
        {"mismatch", MISMATCH}, {"not-found", NOT_FOUND}, {"unknown-error", UNKNOWN},
    };
    if (!strcmp(word, "hang"))
        for (;;)
            pause();
    if (!strcmp(word, "crash"))
        raise(SIGSEGV);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(word, words[i].word))
            return words[i].code;
    return SUCCESS;
}

/* Find what the file says; a card that is "state lost" answers so to everything but its name. */
static int say(const char *scope, const char *key, char value[LONGEST]) {
    const char *path = getenv("STANDIN_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[LONGEST + 64], at[16], name[48];
    int used, code = file ? NOT_SUPPORTED : NO_DRIVER;
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "%15s %47s %n", at, name, &used) < 2 || strcmp(at, scope))
            continue;
        line[strcspn(line, "\n")] = 0;
        if (!strcmp(name, "state") && (code = outcome(line + used)))
            break;
        if (!strcmp(name, key)) {
            snprintf(value, LONGEST, "%s", line + used);
            code = outcome(value);
            break;
        }
    }
    if (file)
        fclose(file);
    return code;
}

static int number(const char *scope, const char *key, u64 *value) {
    char text[LONGEST];
    int code = say(scope, key, text);
    if (code == SUCCESS)
        *value = strtoull(text, NULL, 0);
    return code;
}

static int whole(const char *scope, const char *key, unsigned *value) {
    u64 found;
    int code = number(scope, key, &found);
    if (code == SUCCESS)
        *value = (unsigned)found;
    return code;
}

static int text(const char *scope, const char *key, char *out, unsigned size) {
    char value[LONGEST];
    int code = say(scope, key, value);
    if (code == SUCCESS)
        snprintf(out, size, "%s", value);
    return code;
}

#define WHOLE(function, key) \
    int function(Device card, unsigned *value) { return whole(card, key, value); }

int nvmlInitWithFlags(unsigned flags) {
    unsigned ignored;
    int code = whole("system", "init", &ignored);
    (void)flags;
#ifdef RELEASE
    char module[LONGEST];
    if (say("system", "module", module) == SUCCESS && strcmp(module, RELEASE))
        return MISMATCH;
#endif
    return code == NOT_SUPPORTED ? SUCCESS : code;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int code) {
    return code == UNKNOWN ? "Unknown Error" : code == LOST ? "GPU is lost" : "an error of the stand-in";
}

int nvmlSystemGetDriverVersion(char *out, unsigned size) { return text("system", "driver", out, size); }

int nvmlSystemGetCudaDriverVersion(int *version) { return whole("system", "cuda", (unsigned *)version); }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { return whole("system", "cuda", (unsigned *)version); }

int nvmlDeviceGetCount_v2(unsigned *count) { return whole("system", "count", count); }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device *card) {
    char scope[16], ignored[LONGEST];
    unsigned count = 0;
    int code;
    snprintf(scope, sizeof scope, "%u", index);
    if ((code = nvmlDeviceGetCount_v2(&count)))
        return code;
    if (index >= count)
        return INVALID;
    *card = device(scope);
    code = say(scope, "handle", ignored);
    return code == NOT_SUPPORTED ? SUCCESS : code;
}

int nvmlDeviceGetName(Device card, char *out, unsigned size) { return text(card, "name", out, size); }
int nvmlDeviceGetUUID(Device card, char *out, unsigned size) { return text(card, "uuid", out, size); }

struct pci {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char bus_id[32];
};

int nvmlDeviceGetPciInfo_v3(Device card, struct pci *info) {
    memset(info, 0, sizeof *info);
    return text(card, "pci", info->bus_id, sizeof info->bus_id);
}

static int memory(Device card, u64 *total, u64 *used) {
    int code = number(card, "memory.total", total);
    return code ? code : number(card, "memory.used", used);
}

int nvmlDeviceGetMemoryInfo(Device card, u64 out[3]) {
    u64 reserved = 0;
    int code = memory(card, &out[0], &out[2]);
    if (code)
        return code;
    if (number(card, "memory.reserved", &reserved) == SUCCESS)
        out[2] += reserved; /* the first version counts what the driver reserves as used */
    out[1] = out[0] - out[2];
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(Device card, unsigned out[2]) {
    int code = whole(card, "utilization.gpu", &out[0]);
    return code ? code : whole(card, "utilization.memory", &out[1]);
}

int nvmlDeviceGetTemperature(Device card, int sensor, unsigned *value) {
    return sensor ? INVALID : whole(card, "temperature", value);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device *card) {
    char scope[16], value[LONGEST];
    unsigned count = 0;
    int code = nvmlDeviceGetCount_v2(&count);
    for (unsigned index = 0; !code && index < count; index++) {
        snprintf(scope, sizeof scope, "%u", index);
        if (say(scope, "uuid", value) == SUCCESS && !strcmp(value, uuid)) {
            *card = device(scope);
            return SUCCESS;
        }
    }
    return code ? code : NOT_FOUND;
}

int nvmlDeviceGetTotalEnergyConsumption(Device card, u64 *value) { return number(card, "energy", value); }

WHOLE(nvmlDeviceGetPowerUsage, "power.draw")
WHOLE(nvmlDeviceGetEnforcedPowerLimit, "power.limit")
WHOLE(nvmlDeviceGetPowerManagementDefaultLimit, "power.default")
WHOLE(nvmlDeviceGetCurrPcieLinkGeneration, "pcie.gen")
WHOLE(nvmlDeviceGetCurrPcieLinkWidth, "pcie.width")
WHOLE(nvmlDeviceGetMaxPcieLinkGeneration, "pcie.gen.max")
WHOLE(nvmlDeviceGetMaxPcieLinkWidth, "pcie.width.max")
WHOLE(nvmlDeviceGetPersistenceMode, "persistence")
WHOLE(nvmlDeviceGetComputeMode, "compute.mode")
WHOLE(nvmlDeviceGetMaxMigDeviceCount, "mig.max")

static int clock_of(Device card, int kind, unsigned *value, const char *sm, const char *memory) {
    return kind == 1 ? whole(card, sm, value) : kind == 2 ? whole(card, memory, value) : INVALID;
}

int nvmlDeviceGetClockInfo(Device card, int kind, unsigned *value) {
    return clock_of(card, kind, value, "clock.sm", "clock.memory");
}

int nvmlDeviceGetMaxClockInfo(Device card, int kind, unsigned *value) {
    return clock_of(card, kind, value, "clock.sm.max", "clock.memory.max");
}

int nvmlDeviceGetCurrentClocksThrottleReasons(Device card, u64 *value) { return number(card, "throttle", value); }

int nvmlDeviceGetEccMode(Device card, unsigned *now, unsigned *pending) {
    int code = whole(card, "ecc.mode", now);
    *pending = *now;
    return code;
}

int nvmlDeviceGetTotalEccErrors(Device card, int kind, int counter, u64 *value) {
    return counter != 0 ? INVALID : number(card, kind ? "ecc.uncorrected" : "ecc.corrected", value);
}

int nvmlDeviceGetCudaComputeCapability(Device card, int *major, int *minor) {
    char value[LONGEST];
    int code = say(card, "compute.capability", value);
    return code ? code : sscanf(value, "%d.%d", major, minor) == 2 ? SUCCESS : UNKNOWN;
}

int nvmlDeviceGetMigMode(Device card, unsigned *now, unsigned *pending) {
    int code = whole(card, "mig", now);
    *pending = *now;
    return code;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Device card, unsigned index, Device *slice) {
    char scope[16], ignored[LONGEST];
    snprintf(scope, sizeof scope, "%.8s.%u", card, index);
    int code = say(scope, "uuid", ignored);
    if (code != SUCCESS)
        return code == UNKNOWN ? UNKNOWN : NO_SLICE;
    *slice = device(scope);
    return SUCCESS;
}

int nvmlDeviceGetTopologyCommonAncestor(Device one, Device other, unsigned *level) {
    char scope[16];
    snprintf(scope, sizeof scope, "%.6s+%.6s", one, other);
    return whole(scope, "topology", level);
}

int nvmlDeviceGetNvLinkState(Device card, unsigned link, unsigned *active) {
    char key[32];
    snprintf(key, sizeof key, "nvlink.%u", link);
    char peer[LONGEST];
    int code = say(card, key, peer);
    if (code == SUCCESS)
        *active = strcmp(peer, "off") != 0;
    return code;
}

int nvmlDeviceGetNvLinkRemoteDeviceType(Device card, unsigned link, unsigned *type) {
    char key[32];
    snprintf(key, sizeof key, "nvlink.%u.type", link);
    return whole(card, key, type);
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(Device card, unsigned link, struct pci *info) {
    char key[32];
    snprintf(key, sizeof key, "nvlink.%u", link);
    memset(info, 0, sizeof *info);
    return text(card, key, info->bus_id, sizeof info->bus_id);
}

/* "PID:BYTES PID:na …" */
static unsigned processes(char *value, unsigned most, unsigned pids[], u64 bytes[]) {
    unsigned count = 0;
    for (char *word = strtok(value, " "); word; word = strtok(NULL, " "), count++) {
        char *colon = strchr(word, ':');
        if (count < most) {
            pids[count] = (unsigned)strtoul(word, NULL, 10);
            bytes[count] = !colon || !strcmp(colon + 1, "na") ? ~0ULL : strtoull(colon + 1, NULL, 10);
        }
    }
    return count;
}

struct process {
    unsigned pid;
    u64 used;
    unsigned gpu_instance, compute_instance;
};

static int running(Device card, const char *key, unsigned *count, struct process *out) {
    char value[LONGEST];
    unsigned pids[256], found;
    u64 bytes[256];
    int code = say(card, key, value);
    if (code)
        return code;
    found = processes(value, 256, pids, bytes);
    if (found > *count || (found && !out)) {
        *count = found;
        return SHORT;
    }
    for (unsigned i = 0; i < found; i++)
        out[i] = (struct process){pids[i], bytes[i], ~0u, ~0u};
    *count = found;
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v2(Device card, unsigned *count, struct process *out) {
    return running(card, "processes", count, out);
}

#ifndef OLD_DRIVER
int nvmlDeviceGetComputeRunningProcesses_v3(Device card, unsigned *count, struct process *out) {
    return running(card, "processes", count, out);
}

struct memory_v2 {
    unsigned version;
    u64 total, reserved, free, used;
};

int nvmlDeviceGetMemoryInfo_v2(Device card, struct memory_v2 *out) {
    int code = memory(card, &out->total, &out->used);
    if (code)
        return code;
    out->reserved = 0;
    (void)number(card, "memory.reserved", &out->reserved);
    out->free = out->total - out->used - out->reserved;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksEventReasons(Device card, u64 *value) { return number(card, "throttle", value); }

int nvmlDeviceGetRemappedRows(Device card, unsigned *corrected, unsigned *uncorrected, unsigned *pending,
                              unsigned *failed) {
    char value[LONGEST];
    int code = say(card, "remapped", value);
    return code ? code : sscanf(value, "%u %u %u %u", corrected, uncorrected, pending, failed) == 4 ? SUCCESS : UNKNOWN;
}
#endif
