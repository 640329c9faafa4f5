/* Receives the coverage callbacks of extensions compiled with -fsanitize-coverage=trace-pc and counts the edges
 * between basic blocks in a small table that Python reads. Loaded before everything else (LD_PRELOAD).
 *
 * The table is per process and its counters wrap: what matters is which edges were taken, and about how often.
 * Callbacks of other threads count too; the fuzzer runs the engine without its thread. */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EDGES = 1 << 14 };

uint8_t fuzz_edges[EDGES];
static uintptr_t before;

__attribute__((no_sanitize("address"))) void __sanitizer_cov_trace_pc(void) {
    uintptr_t here = (uintptr_t)__builtin_return_address(0);
    here ^= here >> 14; /* modules are loaded at multiples of a page */
    fuzz_edges[(here ^ before) & (EDGES - 1)]++;
    before = (here >> 1) * 5;
}

void fuzz_begin(void) {
    memset(fuzz_edges, 0, sizeof fuzz_edges);
    before = 0;
}

/* How many edges of this run fall into a class (1, 2, 3, 4-7, 8-15, 16-31, 32-127, 128 and more times) that no run
 * before has reached; `seen` has EDGES bytes, a bit for each class. */
int fuzz_novel(uint8_t *seen) {
    int i, novel = 0;
    for (i = 0; i < EDGES; i++) {
        uint8_t n = fuzz_edges[i], bit;
        if (n == 0) continue;
        bit = n < 4 ? (uint8_t)(1 << (n - 1)) : n < 8 ? 8 : n < 16 ? 16 : n < 32 ? 32 : n < 128 ? 64 : 128;
        if (!(seen[i] & bit)) {
            seen[i] |= bit;
            novel++;
        }
    }
    return novel;
}

/* The input at work, kept so that it can be written down when the process dies. */
static uint8_t input[1 << 16];
static int input_len;
static char died[1024];

void __sanitizer_set_death_callback(void (*callback)(void));

static void on_death(void) {
    int fd = open(died, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd >= 0) {
        ssize_t ignored = write(fd, input, (size_t)input_len);
        (void)ignored;
        close(fd);
    }
}

void fuzz_on_death(const char *path) {
    strncpy(died, path, sizeof died - 1);
    __sanitizer_set_death_callback(on_death);
}

void fuzz_input(const uint8_t *data, int n) {
    input_len = n < (int)sizeof input ? n : (int)sizeof input;
    memcpy(input, data, (size_t)input_len);
}

/* A parser with a fault three bytes deep: the proof that the fuzzer finds its way and the sanitizer sees the fault.
 * Its branches are told to the table by hand, since this file has no callbacks of its own. */
static int reached(int branch) {
    fuzz_edges[branch]++;
    return 1;
}

__attribute__((noinline)) int fuzz_planted(const uint8_t *data, int n) {
    uint8_t *copy = malloc(n > 0 ? (size_t)n : 1);
    int result = 0;
    memcpy(copy, data, (size_t)n);
    if (n > 3 && copy[0] == 0x80 && reached(1) && copy[1] == 0xc9 && reached(2) && copy[2] == 0x7f)
        result = copy[n + (copy[3] & 1)];
    free(copy);
    return result;
}
