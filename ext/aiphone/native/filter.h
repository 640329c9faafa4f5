/* The kernels of the resampler: what they compute is said in resample.pyx. */
#ifndef AIPHONE_FILTER_H
#define AIPHONE_FILTER_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define AIPHONE_STEP 16         /* coefficients that a vector instruction meets */
#define AIPHONE_MOST 960        /* input samples in a block */
#define AIPHONE_MOST_TAPS 512
#define AIPHONE_WINDOW (AIPHONE_MOST_TAPS + AIPHONE_MOST)
#define ALWAYS static inline __attribute__((always_inline))

/* What the kernels need of a filter. A row of coefficients: `steps` times 16 fine ones, then 16 coarse ones for the
   samples from `centre` on. */
typedef struct {
    const int16_t *coefficients, *places;  /* of each row, and where it begins in a pass through all rows */
    int steps, centre, shift, up, down;
    int first;          /* fine coefficients before it, an even number, are 0, but in the row `same` */
    int same, same_at;  /* a row whose outputs are input samples, or -1, and which ones */
} Kernel;

/* To the nearest, from 14 fractional bits. */
ALWAYS int16_t saturated(int32_t sum) {
    sum = (sum + (1 << 13)) >> 14;
    return (int16_t)(sum > 32767 ? 32767 : sum < -32768 ? -32768 : sum);
}

/* One output. All versions shift the same eight sums of neighbouring products, so all give the same bits. */
#if defined(__SSE2__) && !defined(AIPHONE_PLAIN)
#include <emmintrin.h>
#define PRODUCTS(x, c) _mm_madd_epi16(_mm_loadu_si128((const __m128i *)(x)), _mm_loadu_si128((const __m128i *)(c)))

ALWAYS int16_t one(const Kernel *k, const int16_t *c, const int16_t *x) {
    const __m128i shift = _mm_cvtsi32_si128(k->shift);
    __m128i a = _mm_setzero_si128(), b = a;
    for (int j = 0; j < k->steps; j++, c += 16) {
        a = _mm_add_epi32(a, PRODUCTS(x + 16 * j, c));
        b = _mm_add_epi32(b, PRODUCTS(x + 16 * j + 8, c + 8));
    }
    a = _mm_add_epi32(_mm_sra_epi32(a, shift), PRODUCTS(x + k->centre, c));
    b = _mm_add_epi32(_mm_sra_epi32(b, shift), PRODUCTS(x + k->centre + 8, c + 8));
    a = _mm_add_epi32(a, b);
    a = _mm_add_epi32(a, _mm_shuffle_epi32(a, 0x4E));
    return saturated(_mm_cvtsi128_si32(_mm_add_epi32(a, _mm_shuffle_epi32(a, 0xB1))));
}
#else
typedef int16_t eight_shorts __attribute__((vector_size(16)));
typedef int32_t eight_ints __attribute__((vector_size(32)));

ALWAYS void add_products(eight_ints *sum, const int16_t *x, const int16_t *c) {
    eight_shorts u, v;
    memcpy(&u, x, sizeof u);
    memcpy(&v, c, sizeof v);
    *sum += __builtin_convertvector(u, eight_ints) * __builtin_convertvector(v, eight_ints);
}

ALWAYS int16_t one(const Kernel *k, const int16_t *c, const int16_t *x) {
    eight_ints a = {0}, b = {0}, coarse = {0};
    int32_t sum = 0;
    for (int j = 0; j < k->steps; j++, c += 16) {
        add_products(&a, x + 16 * j, c);
        add_products(&b, x + 16 * j + 8, c + 8);
    }
    add_products(&coarse, x + k->centre, c);
    add_products(&coarse, x + k->centre + 8, c + 8);
    for (int i = 0; i < 8; i += 2)
        sum += ((a[i] + a[i + 1]) >> k->shift) + ((b[i] + b[i + 1]) >> k->shift) + coarse[i] + coarse[i + 1];
    return saturated(sum);
}
#endif

/* Makes `count` outputs into dst: the first begins at x with the coefficients of `row`. */
static void filter_portable(const Kernel *k, int row, const int16_t *x, int count, int16_t *dst) {
    const int whole = k->down / k->up, rest = k->down % k->up, length = 16 * (k->steps + 1);
    int phase = (int)((long long)row * k->down % k->up);
    for (int i = 0; i < count; i++) {
        const int carry = phase + rest >= k->up;
        dst[i] = row == k->same ? x[k->same_at] : one(k, k->coefficients + row * length, x);
        x += whole + carry;
        phase += rest - (carry ? k->up : 0);
        row = row + 1 == k->up ? 0 : row + 1;
    }
}

#if defined(__x86_64__) && defined(__GNUC__) && !defined(AIPHONE_PORTABLE)
#define AIPHONE_AVX2 1
#include <immintrin.h>
#define FOR_AVX2 __attribute__((target("avx2")))
#define LOAD(from) _mm256_loadu_si256((const __m256i *)(from))

ALWAYS int32_t pair_at(const int16_t *from) {
    int32_t pair;
    memcpy(&pair, from, sizeof pair);
    return pair;
}

/* The sums of the lanes of four vectors, beside each other. */
FOR_AVX2 ALWAYS __m128i sums_of_lanes(__m256i a, __m256i b, __m256i c, __m256i d) {
    __m256i halves = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    return _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}

FOR_AVX2 ALWAYS __m128i rounded(__m128i sums) {
    return _mm_srai_epi32(_mm_add_epi32(sums, _mm_set1_epi32(1 << 13)), 14);
}

/* Neighbouring outputs: four rows of coefficients, four places in the window. */
FOR_AVX2 ALWAYS __m128i four_avx2(const int16_t *c0, const int16_t *c1, const int16_t *c2, const int16_t *c3,
                                  const int16_t *x0, const int16_t *x1, const int16_t *x2, const int16_t *x3,
                                  const int steps, int centre, __m128i shift) {
    __m256i s0 = _mm256_setzero_si256(), s1 = s0, s2 = s0, s3 = s0;
    const int end = 16 * steps;
    for (int j = 0; j < end; j += 16) {
        s0 = _mm256_add_epi32(s0, _mm256_madd_epi16(LOAD(x0 + j), LOAD(c0 + j)));
        s1 = _mm256_add_epi32(s1, _mm256_madd_epi16(LOAD(x1 + j), LOAD(c1 + j)));
        s2 = _mm256_add_epi32(s2, _mm256_madd_epi16(LOAD(x2 + j), LOAD(c2 + j)));
        s3 = _mm256_add_epi32(s3, _mm256_madd_epi16(LOAD(x3 + j), LOAD(c3 + j)));
    }
    s0 = _mm256_add_epi32(_mm256_sra_epi32(s0, shift), _mm256_madd_epi16(LOAD(x0 + centre), LOAD(c0 + end)));
    s1 = _mm256_add_epi32(_mm256_sra_epi32(s1, shift), _mm256_madd_epi16(LOAD(x1 + centre), LOAD(c1 + end)));
    s2 = _mm256_add_epi32(_mm256_sra_epi32(s2, shift), _mm256_madd_epi16(LOAD(x2 + centre), LOAD(c2 + end)));
    s3 = _mm256_add_epi32(_mm256_sra_epi32(s3, shift), _mm256_madd_epi16(LOAD(x3 + centre), LOAD(c3 + end)));
    return rounded(sums_of_lanes(s0, s1, s2, s3));
}

/* Eight outputs of one phase: each coefficient is loaded once for all of them. */
FOR_AVX2 ALWAYS __m128i eight_avx2(const int16_t *c, const int16_t *x, int down, const int steps, int centre,
                                   __m128i shift) {
    __m256i s[8];
    for (int i = 0; i < 8; i++)
        s[i] = _mm256_setzero_si256();
    for (int j = 0; j < steps; j++, c += 16) {
        const __m256i v = LOAD(c);
        for (int i = 0; i < 8; i++)
            s[i] = _mm256_add_epi32(s[i], _mm256_madd_epi16(LOAD(x + 16 * j + i * down), v));
    }
    for (int i = 0; i < 8; i++)
        s[i] = _mm256_add_epi32(_mm256_sra_epi32(s[i], shift),
                                _mm256_madd_epi16(LOAD(x + centre + i * down), LOAD(c)));
    return _mm_packs_epi32(rounded(sums_of_lanes(s[0], s[1], s[2], s[3])),
                           rounded(sums_of_lanes(s[4], s[5], s[6], s[7])));
}

/* Few phases: the outputs of one phase together, eight at a time; of two phases in turns. */
FOR_AVX2 ALWAYS void filter_across(const Kernel *k, int row, const int16_t *x, int count, int16_t *dst,
                                   const int up, const int down) {
    const int steps = k->steps, length = 16 * (steps + 1), centre = k->centre;
    const __m128i shift = _mm_cvtsi32_si128(k->shift);
    int phase = row * down % up, done = 0;
    if (up == 2) {
        const int16_t *c = k->coefficients + row * length, *d = k->coefficients + (1 - row) * length;
        const int ahead = (phase + down) / 2;
        for (; done + 16 <= count; done += 16, x += 8 * down) {
            const __m128i a = eight_avx2(c, x, down, steps, centre, shift);
            const __m128i b = eight_avx2(d, x + ahead, down, steps, centre, shift);
            _mm_storeu_si128((__m128i *)(dst + done), _mm_unpacklo_epi16(a, b));
            _mm_storeu_si128((__m128i *)(dst + done + 8), _mm_unpackhi_epi16(a, b));
        }
    }
    for (int first = done; first < done + up && first < count; first++) {
        const int16_t *c = k->coefficients + row * length, *from = x;
        int i = first;
        for (; i + 7 * up < count; i += 8 * up, from += 8 * down) {
            const __m128i out = eight_avx2(c, from, down, steps, centre, shift);
            int16_t each[8];
            _mm_storeu_si128((__m128i *)(up == 1 ? dst + i : each), out);
            for (int n = 0; up > 1 && n < 8; n++)
                dst[i + n * up] = each[n];
        }
        for (; i < count; i += up, from += down)
            dst[i] = one(k, c, from);
        phase += down;
        x += phase / up;
        phase %= up;
        row = row + 1 == up ? 0 : row + 1;
    }
}

/* Many phases: one output after the other, four at a time, pass after pass through the rows. */
FOR_AVX2 ALWAYS void filter_along(const Kernel *k, int row, const int16_t *x, int count, int16_t *dst,
                                  const int steps) {
    const int length = 16 * (steps + 1), centre = k->centre;
    const __m128i shift = _mm_cvtsi32_si128(k->shift);
    x -= k->places[row];
    while (count > 0) {
        const int end = row + count < k->up ? row + count : k->up;
        count -= end - row;
        for (; row < end; row += 4, dst += 4) {
            const int left = end - row - 1;  /* what is beyond the last one is computed again, and thrown away */
            const int i = left < 1 ? row : row + 1, j = left < 2 ? i : row + 2, n = left < 3 ? j : row + 3;
            const int16_t *c = k->coefficients;
            __m128i out = four_avx2(c + row * length, c + i * length, c + j * length, c + n * length,
                                    x + k->places[row], x + k->places[i], x + k->places[j], x + k->places[n],
                                    steps, centre, shift);
            out = _mm_packs_epi32(out, out);
            if (left >= 3)
                _mm_storel_epi64((__m128i *)dst, out);
            else
                for (int m = 0; m <= left; m++, out = _mm_srli_si128(out, 2))
                    dst[m] = (int16_t)_mm_extract_epi16(out, 0);
        }
        dst -= row - end;
        row = 0;
        x += k->down;
    }
}

/* `vectors` times eight outputs whose places in the window are two samples apart, so that one load has a pair of
   neighbours for each of them: a lane of `one` after the other, for all. With `between`, every second vector has
   the outputs that lie between those of the one before it. Before `first` all coefficients are 0. */
#define PLACE(v) (between ? 16 * ((v) / 2) + (v) % 2 : 16 * (v))
FOR_AVX2 ALWAYS void lanes_avx2(const int16_t *c, const int16_t *x, const int begin, const int end, const int first,
                                const int length, int centre, __m128i shift, const int between, const int vectors,
                                __m256i *sum) {
    for (ptrdiff_t lane = begin; lane < end; lane += 2) {
        const __m256i coarse = _mm256_set1_epi32(pair_at(c + length + lane));
        __m256i s[4];
        for (int v = 0; v < 4; v++)
            s[v] = _mm256_setzero_si256();
        for (ptrdiff_t j = first; j < length; j += 16) {
            const __m256i fine = _mm256_set1_epi32(pair_at(c + lane + j));
            for (int v = 0; v < vectors; v++)
                s[v] = _mm256_add_epi32(s[v], _mm256_madd_epi16(LOAD(x + lane + j + PLACE(v)), fine));
        }
        for (int v = 0; v < vectors; v++) {
            s[v] = _mm256_sra_epi32(s[v], shift);
            s[v] = _mm256_add_epi32(s[v], _mm256_madd_epi16(LOAD(x + centre + lane + PLACE(v)), coarse));
            sum[v] = _mm256_add_epi32(sum[v], s[v]);
        }
    }
}
#undef PLACE

FOR_AVX2 ALWAYS void beside_avx2(const int16_t *c, const int16_t *x, const int length, const int first, int centre,
                                 __m128i shift, const int between, const int vectors, __m256i *sum) {
    for (int v = 0; v < vectors; v++)
        sum[v] = _mm256_set1_epi32(1 << 13);
    lanes_avx2(c, x, 0, first % 16, first / 16 * 16 + 16, length, centre, shift, between, vectors, sum);
    lanes_avx2(c, x, first % 16, 16, first / 16 * 16, length, centre, shift, between, vectors, sum);
    for (int v = 0; v < vectors; v++)
        sum[v] = _mm256_srai_epi32(sum[v], 14);
}

/* Half the rate. */
FOR_AVX2 ALWAYS void filter_halving(const Kernel *k, const int16_t *x, int count, int16_t *dst, const int length,
                                    const int first) {
    const __m128i shift = _mm_cvtsi32_si128(k->shift);
    __m256i s[4];
    for (; count >= 32; count -= 32, x += 64, dst += 32) {
        beside_avx2(k->coefficients, x, length, first, k->centre, shift, 0, 4, s);
        for (int v = 0; v < 4; v += 2)
            _mm256_storeu_si256((__m256i *)(dst + 8 * v),
                                _mm256_permute4x64_epi64(_mm256_packs_epi32(s[v], s[v + 1]), 0xD8));
    }
    for (; count >= 16; count -= 16, x += 32, dst += 16) {
        beside_avx2(k->coefficients, x, length, first, k->centre, shift, 0, 2, s);
        _mm256_storeu_si256((__m256i *)dst, _mm256_permute4x64_epi64(_mm256_packs_epi32(s[0], s[1]), 0xD8));
    }
    for (; count > 0; count--, x += 2)
        *dst++ = one(k, k->coefficients, x);
}

/* Twice the rate, where every second output is an input sample. */
FOR_AVX2 ALWAYS void filter_doubling(const Kernel *k, int row, const int16_t *x, int count, int16_t *dst,
                                     const int length, const int first) {
    const int made = 1 - k->same;
    const int16_t *c = k->coefficients + made * (length + 16), *copied = x + k->same_at;
    const __m128i shift = _mm_cvtsi32_si128(k->shift);
    const __m256i in_turns = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
    __m256i s[4];
    if (row == k->same && count > 0) {
        *dst++ = *copied;
        count--;
        x += row;  /* the phase: output 1 stands half a sample behind output 0 */
        copied += row;
    }
    copied += made;
    for (; count >= 64; count -= 64, x += 32) {
        beside_avx2(c, x, length, first, k->centre, shift, 1, 4, s);
        for (int v = 0; v < 4; v += 2, copied += 16, dst += 32) {
            const __m256i a = _mm256_shuffle_epi8(_mm256_packs_epi32(s[v], s[v + 1]), in_turns), b = LOAD(copied);
            const __m256i low = _mm256_unpacklo_epi16(a, b), high = _mm256_unpackhi_epi16(a, b);
            _mm256_storeu_si256((__m256i *)dst, _mm256_permute2x128_si256(low, high, 0x20));
            _mm256_storeu_si256((__m256i *)(dst + 16), _mm256_permute2x128_si256(low, high, 0x31));
        }
    }
    for (; count >= 32; count -= 32, x += 16, copied += 16, dst += 32) {
        beside_avx2(c, x, length, first, k->centre, shift, 1, 2, s);
        const __m256i a = _mm256_shuffle_epi8(_mm256_packs_epi32(s[0], s[1]), in_turns), b = LOAD(copied);
        const __m256i low = _mm256_unpacklo_epi16(a, b), high = _mm256_unpackhi_epi16(a, b);
        _mm256_storeu_si256((__m256i *)dst, _mm256_permute2x128_si256(low, high, 0x20));
        _mm256_storeu_si256((__m256i *)(dst + 16), _mm256_permute2x128_si256(low, high, 0x31));
    }
    for (; count > 0; count -= 2, x++, copied++) {
        *dst++ = one(k, c, x);
        if (count > 1)
            *dst++ = *copied;
    }
}

/* The usual ratios have loops of their own, with known distances between the outputs or a known number of steps. */
FOR_AVX2 static void filter_avx2(const Kernel *k, int row, const int16_t *x, int count, int16_t *dst) {
    const int up = k->up, down = k->down;
    if (up > 3 && k->steps == 6)
        filter_along(k, row, x, count, dst, 6);
    else if (up > 3)
        filter_along(k, row, x, count, dst, k->steps);
    else if (up == 1 && down == 2)
        k->steps == 8 && k->first == 0 ? filter_halving(k, x, count, dst, 128, 0)
                                       : filter_halving(k, x, count, dst, 16 * k->steps, k->first);
    else if (up == 1 && down == 3)
        filter_across(k, row, x, count, dst, 1, 3);
    else if (up == 1 && down == 6)
        filter_across(k, row, x, count, dst, 1, 6);
    else if (up == 2 && down == 1 && k->same >= 0)
        k->steps == 3 && k->first == 12 ? filter_doubling(k, row, x, count, dst, 48, 12)
                                        : filter_doubling(k, row, x, count, dst, 16 * k->steps, k->first);
    else if (up == 2 && down == 3)
        filter_across(k, row, x, count, dst, 2, 3);
    else
        filter_across(k, row, x, count, dst, up, down);
}
#endif

static inline void filter_block(const Kernel *k, int row, const int16_t *x, int count, int16_t *dst) {
#ifdef AIPHONE_AVX2
    if (__builtin_cpu_supports("avx2")) {
        filter_avx2(k, row, x, count, dst);
        return;
    }
#endif
    filter_portable(k, row, x, count, dst);
}

#endif
