/* See kernels.h. Compiled with KERNELS naming the table, and the instructions that it may use. */
#include "kernels.h"

#include <float.h>
#include <math.h>
#include <string.h>

#if defined(USE_AVX512) || defined(USE_AVX2)
#include <immintrin.h>
#endif

#ifdef USE_AVX2
enum { LEVELS = 63 }; /* so that the sum of two products fits 16 bits */
#else
enum { LEVELS = 127 };
#endif
enum { SHIFT = LEVELS + 1, BLOCK = 32, GROUP = 8, MANY = 256, AHEAD = 2, MAX_HALF = 16384, EXACT = -1 };

#define NOWHERE -1e19f
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* ---- products of codes and their comparison: the only part written for particular instructions ---- */

/* Whether codes so far apart (squared) cannot be dismissed. A lane that holds no point has the reach NOWHERE. */
INLINE int within(int32_t apart, float together) { return (float)apart <= together * fabsf(together); }

#if defined(USE_AVX512)

INLINE void tile(const int8_t *rows, int64_t padded, const uint8_t *panels, int64_t columns, int32_t *out, int R,
                 int P) {
    __m512i sums[8][8];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int p = 0; p < P; p++) sums[r][p] = _mm512_setzero_si512();
    for (int64_t i = 0; i < padded; i += 4) {
        __m512i lanes[8];
        UNROLL for (int p = 0; p < P; p++) lanes[p] = _mm512_loadu_si512(panels + p * padded * LANES + i * LANES);
        UNROLL for (int r = 0; r < R; r++) {
            int32_t four;
            memcpy(&four, rows + r * padded + i, 4);
            __m512i same = _mm512_set1_epi32(four);
            UNROLL for (int p = 0; p < P; p++) sums[r][p] = _mm512_dpbusd_epi32(sums[r][p], lanes[p], same);
        }
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int p = 0; p < P; p++)
        _mm512_storeu_si512(out + r * columns + p * LANES, sums[r][p]);
}

INLINE uint32_t undismissed_of_panel(const int32_t *values, const int32_t *norms, int32_t shifted, const float *reaches,
                                     float own) {
    __m512i apart = _mm512_add_epi32(_mm512_loadu_si512(norms), _mm512_set1_epi32(shifted));
    apart = _mm512_sub_epi32(apart, _mm512_slli_epi32(_mm512_loadu_si512(values), 1));
    __m512 together = _mm512_add_ps(_mm512_loadu_ps(reaches), _mm512_set1_ps(own));
    return _mm512_cmp_ps_mask(_mm512_cvtepi32_ps(apart), _mm512_mul_ps(together, _mm512_abs_ps(together)), _CMP_LE_OQ);
}

#elif defined(USE_AVX2)

INLINE void tile(const int8_t *rows, int64_t padded, const uint8_t *panels, int64_t columns, int32_t *out, int R,
                 int P) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (int p = 0; p < P; p++) {
        __m256i sums[8][2];
        UNROLL for (int r = 0; r < R; r++) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
        for (int64_t i = 0; i < padded; i += 4) {
            const uint8_t *at = panels + p * padded * LANES + i * LANES;
            __m256i low = _mm256_loadu_si256((const __m256i *)at), high = _mm256_loadu_si256((const __m256i *)(at + 32));
            UNROLL for (int r = 0; r < R; r++) {
                int32_t four;
                memcpy(&four, rows + r * padded + i, 4);
                __m256i same = _mm256_set1_epi32(four);
                sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_madd_epi16(_mm256_maddubs_epi16(low, same), ones));
                sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_madd_epi16(_mm256_maddubs_epi16(high, same), ones));
            }
        }
        UNROLL for (int r = 0; r < R; r++) {
            _mm256_storeu_si256((__m256i *)(out + r * columns + p * LANES), sums[r][0]);
            _mm256_storeu_si256((__m256i *)(out + r * columns + p * LANES + 8), sums[r][1]);
        }
    }
}

INLINE uint32_t undismissed_of_panel(const int32_t *values, const int32_t *norms, int32_t shifted, const float *reaches,
                                     float own) {
    uint32_t mask = 0;
    for (int i = 0; i < LANES; i += 8) {
        __m256i apart = _mm256_add_epi32(_mm256_loadu_si256((const __m256i *)(norms + i)), _mm256_set1_epi32(shifted));
        apart = _mm256_sub_epi32(apart, _mm256_slli_epi32(_mm256_loadu_si256((const __m256i *)(values + i)), 1));
        __m256 together = _mm256_add_ps(_mm256_loadu_ps(reaches + i), _mm256_set1_ps(own));
        __m256 squared = _mm256_mul_ps(together, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), together));
        mask |= (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(_mm256_cvtepi32_ps(apart), squared, _CMP_LE_OQ)) << i;
    }
    return mask;
}

#else

INLINE void tile(const int8_t *rows, int64_t padded, const uint8_t *panels, int64_t columns, int32_t *out, int R,
                 int P) {
    for (int p = 0; p < P; p++)
        for (int r = 0; r < R; r++) {
            int32_t sums[LANES] = {0};
            for (int64_t i = 0; i < padded; i += 4) {
                const uint8_t *at = panels + p * padded * LANES + i * LANES;
                const int8_t *four = rows + r * padded + i;
                for (int lane = 0; lane < LANES; lane++)
                    sums[lane] += at[4 * lane] * four[0] + at[4 * lane + 1] * four[1] + at[4 * lane + 2] * four[2] +
                                  at[4 * lane + 3] * four[3];
            }
            memcpy(out + r * columns + p * LANES, sums, sizeof sums);
        }
}

INLINE uint32_t undismissed_of_panel(const int32_t *values, const int32_t *norms, int32_t shifted, const float *reaches,
                                     float own) {
    uint32_t mask = 0;
    for (int i = 0; i < LANES; i++)
        mask |= (uint32_t)within(norms[i] + shifted - 2 * values[i], reaches[i] + own) << i;
    return mask;
}

#endif

/* Shifted products of up to GROUP consecutive rows of codes with consecutive panels: out [count, 16 x panels]. */
static void products(const int8_t *rows, int count, int64_t padded, const uint8_t *panels, int64_t number,
                     int32_t *out) {
    const int64_t columns = number * LANES, size = padded * LANES;
    int64_t p = 0;
    if (count == GROUP) {
        for (; p + 2 <= number; p += 2) tile(rows, padded, panels + p * size, columns, out + p * LANES, GROUP, 2);
        if (p < number) tile(rows, padded, panels + p * size, columns, out + p * LANES, GROUP, 1);
        return;
    }
    for (int r = 0; r < count; r++) {
        const int8_t *row = rows + r * padded;
        int32_t *to = out + r * columns;
        for (p = 0; p + 8 <= number; p += 8) tile(row, padded, panels + p * size, columns, to + p * LANES, 1, 8);
        for (; p < number; p++) tile(row, padded, panels + p * size, columns, to + p * LANES, 1, 1);
    }
}

/* What must be added to a shifted product's norms: ||c||^2 and the shift taken back. */
static int32_t shifted_norm(const int8_t *code, int64_t padded, int32_t norm) {
    int32_t sum = 0;
    for (int64_t i = 0; i < padded; i++) sum += code[i];
    return norm + 2 * SHIFT * sum;
}

/* ---- points ---- */

/* The squares are added by halves, in the order of `squared_distances` in kernels/screening.py: the same bits. */
static double squared_distance(const float *restrict a, const float *restrict b, int64_t dims) {
    double terms[MAX_HALF + 1];
    int64_t half = dims / 2, rest = dims - half;
    const float *restrict a2 = a + rest, *restrict b2 = b + rest;
    for (int64_t i = 0; i < half; i++) {
        double first = (double)a[i] - (double)b[i], second = (double)a2[i] - (double)b2[i];
        terms[i] = first * first + second * second;
    }
    if (rest > half) {
        double middle = (double)a[half] - (double)b[half];
        terms[half] = middle * middle;
    }
    while (rest > 1) {
        half = rest / 2;
        double *restrict low = terms, *restrict high = terms + (rest - half);
        for (int64_t i = 0; i < half; i++) low[i] += high[i];
        rest -= half;
    }
    return terms[0];
}

/* Above what float32 loses on the way to a comparison; ROUND_UP, TINY and FAR in quantised.py. */
INLINE float rounded_up(double value) { return value < 1e18 ? (float)(value * (1 + 1e-5) + 1e-5) : 1e18f; }

INLINE float reach(double squared, double steps, float error) {
    return rounded_up(sqrt(squared) * steps + error);
}

static void encode(const float *points, int64_t count, int64_t dims, int64_t padded, const double *centre,
                   double steps, int8_t *codes, int32_t *norms, float *errors) {
    const double nearest = 6755399441055744.0; /* adding and taking it away rounds to a whole number */
    for (int64_t row = 0; row < count; row++) {
        const float *restrict x = points + row * dims;
        int8_t *restrict code = codes + row * padded;
        double lost[16] = {0};
        int32_t norm = 0;
        int64_t i = 0;
        for (; i + 16 <= dims; i += 16)
            for (int k = 0; k < 16; k++) {
                double scaled = ((double)x[i + k] - centre[i + k]) * steps;
                double whole = scaled < LEVELS ? scaled : LEVELS;
                whole = whole > -LEVELS ? whole : -LEVELS;
                whole = (whole + nearest) - nearest;
                double difference = scaled - whole;
                lost[k] += difference * difference;
                code[i + k] = (int8_t)(int32_t)whole;
            }
        for (; i < dims; i++) {
            double scaled = ((double)x[i] - centre[i]) * steps;
            double whole = scaled < LEVELS ? scaled : LEVELS;
            whole = whole > -LEVELS ? whole : -LEVELS;
            whole = (whole + nearest) - nearest;
            lost[0] += (scaled - whole) * (scaled - whole);
            code[i] = (int8_t)(int32_t)whole;
        }
        for (i = dims; i < padded; i++) code[i] = 0;
        for (i = 0; i < padded; i++) norm += code[i] * code[i];
        double total = 0;
        for (int k = 0; k < 16; k++) total += lost[k];
        norms[row] = norm;
        errors[row] = total < INFINITY ? rounded_up(sqrt(total)) : NAN;
    }
}

/* 16 float32 values, for the compiler to spread over the registers that there are. */
typedef float Floats __attribute__((vector_size(4 * LANES)));

INLINE void project_tile(const float *rows, int64_t dims, const float *directions, float *out, int R, int P) {
    Floats sums[8][2];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int p = 0; p < P; p++) sums[r][p] = (Floats){0};
    for (int64_t i = 0; i < dims; i++) {
        Floats lanes[2];
        UNROLL for (int p = 0; p < P; p++) memcpy(&lanes[p], directions + (p * dims + i) * LANES, sizeof lanes[p]);
        UNROLL for (int r = 0; r < R; r++) {
            Floats same = (Floats){0} + rows[r * dims + i];
            UNROLL for (int p = 0; p < P; p++) sums[r][p] += same * lanes[p];
        }
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int p = 0; p < P; p++)
        memcpy(out + r * SKETCH + p * LANES, &sums[r][p], sizeof sums[r][p]);
}

/* Sketches of points, float32 [count, SKETCH], and bounds of their errors; nearest/compiled.py has the proof.
 * `directions` are SKETCH of D values as panels [SKETCH / 16][dims][16], the last one zero. */
static void sketch(const float *points, int64_t count, int64_t dims, const double *centre, const float *directions,
                   float *sketches, double *wrong) {
    const double terms = (double)(dims + 2) * 0x1p-24, gamma = terms / (1 - terms);
    float centred[GROUP * dims];
    for (int64_t low = 0; low < count; low += GROUP) {
        const int group = count - low < GROUP ? (int)(count - low) : GROUP;
        double lengths[GROUP];
        for (int r = 0; r < GROUP; r++) {
            const float *restrict x = points + (low + (r < group ? r : 0)) * dims;
            float *restrict to = centred + r * dims;
            double sums[16] = {0};
            int64_t i = 0;
            for (; i + 16 <= dims; i += 16)
                for (int k = 0; k < 16; k++) {
                    to[i + k] = x[i + k] - (float)centre[i + k];
                    sums[k] += (double)to[i + k] * (double)to[i + k];
                }
            for (; i < dims; i++) {
                to[i] = x[i] - (float)centre[i];
                sums[0] += (double)to[i] * (double)to[i];
            }
            lengths[r] = 0;
            for (int k = 0; k < 16; k++) lengths[r] += sums[k];
        }
        float all[GROUP * SKETCH];
        for (int p = 0; p < SKETCH / LANES; p += 2)
            project_tile(centred, dims, directions + p * dims * LANES, all + p * LANES, GROUP, 2);
        for (int r = 0; r < group; r++) {
            float *own = all + r * SKETCH;
            double along = 0;
            for (int i = 0; i < SKETCH; i++) along += (double)own[i] * (double)own[i];
            double rest = sqrt(lengths[r] > along ? lengths[r] - along : 0);
            double eta = sqrt(SKETCH) * (gamma * sqrt(lengths[r]) + (double)dims * 0x1p-125);
            double beta = eta * (2 * sqrt(along) + eta);
            double apart = rest > 0 && beta / rest < sqrt(beta) ? beta / rest : sqrt(beta);
            own[SKETCH - 1] = (float)rest;
            int finite = along < INFINITY && rest < FLT_MAX;
            for (int i = 0; i < SKETCH; i++) sketches[(low + r) * SKETCH + i] = finite ? own[i] : 0.0f;
            wrong[low + r] = finite ? (eta + apart + rest * 0x1p-24) * (1 + 1e-5) : INFINITY;
        }
    }
}

static void set_lane(uint8_t *panels, int64_t number, const int8_t *code, int64_t padded) {
    uint8_t *to = panels + (number / LANES) * LANES * padded + 4 * (number % LANES);
    for (int64_t i = 0; i < padded; i += 4, to += 4 * LANES)
        for (int k = 0; k < 4; k++) to[k] = (uint8_t)(code[i + k] + SHIFT);
}

static void pack(const int8_t *codes, int64_t padded, const int64_t *rows, int64_t count, uint8_t *panels) {
    for (int64_t i = 0; i < count; i++) set_lane(panels, i, codes + rows[i] * padded, padded);
}

static void distances(const float *points, const float *other, int64_t count, int64_t dims, double *out) {
    for (int64_t i = 0; i < count; i++) out[i] = squared_distance(points + i * dims, other, dims);
}

/* The lanes that cannot be dismissed, ascending; their shifted products become squared distances of codes. */
static int64_t undismissed(int32_t *values, const int32_t *norms, int32_t shifted, const float *reaches, float own,
                           int64_t lanes, int32_t *found) {
    int64_t count = 0;
    for (int64_t low = 0; low < lanes; low += LANES) {
        uint32_t mask = undismissed_of_panel(values + low, norms + low, shifted, reaches + low, own);
        for (; mask; mask &= mask - 1) {
            int64_t lane = low + __builtin_ctz(mask);
            values[lane] = norms[lane] + shifted - 2 * values[lane];
            found[count++] = (int32_t)lane;
        }
    }
    return count;
}

static void cells(const int8_t *codes, int64_t count, int64_t padded, const uint8_t *panels,
                  const int32_t *panel_norms, int64_t seeds, int32_t *cell) {
    const int64_t number = (seeds + LANES - 1) / LANES;
    int32_t values[GROUP * BLOCK * LANES];
    for (int64_t low = 0; low < count; low += GROUP) {
        int group = count - low < GROUP ? (int)(count - low) : GROUP;
        products(codes + low * padded, group, padded, panels, number, values);
        for (int r = 0; r < group; r++) {
            int32_t *own = values + r * number * LANES, nearest = 0;
            for (int32_t i = 1; i < seeds; i++) /* the row's own norm is the same for all */
                if (panel_norms[i] - 2 * own[i] < panel_norms[nearest] - 2 * own[nearest]) nearest = i;
            cell[low + r] = nearest;
        }
    }
}

/* ---- nearest rows ---- */

/* What a query has found: up to k squared distances and rows, in order. */
typedef struct {
    double *distance;
    int64_t *row;
    int64_t found, k, spent, budget;
} Found;

INLINE int before(double distance, int64_t row, double other, int64_t than) {
    return distance < other || (distance == other && row < than);
}

static void offer(Found *found, double distance, int64_t row) {
    int64_t at = found->found;
    if (at < found->k)
        found->found++;
    else if (at--, !before(distance, row, found->distance[at], found->row[at]))
        return;
    for (; at > 0 && before(distance, row, found->distance[at - 1], found->row[at - 1]); at--) {
        found->distance[at] = found->distance[at - 1];
        found->row[at] = found->row[at - 1];
    }
    found->distance[at] = distance;
    found->row[at] = row;
}

INLINE double limit_of(const Found *found) {
    return found->found < found->k ? INFINITY : found->distance[found->k - 1];
}

/* Squared distance of two codes. */
static int32_t code_distance(const int8_t *restrict a, const int8_t *restrict b, int64_t padded) {
    int32_t sum = 0;
    for (int64_t i = 0; i < padded; i++) {
        int16_t difference = (int16_t)(a[i] - b[i]);
        sum += difference * difference;
    }
    return sum;
}

static void consider(const Bank *bank, const Queries *queries, int64_t query, int64_t row, Found *found) {
    double limit = limit_of(found);
    if (bank->sketch != bank->padded && limit < INFINITY) {
        float together = reach(limit, bank->steps, queries->errors[query]) + bank->errors[row];
        int32_t apart = code_distance(queries->codes + query * bank->padded, bank->codes + row * bank->padded,
                                      bank->padded);
        if (!within(apart, together)) return;
    }
    found->spent++;
    offer(found, squared_distance(queries->vectors + query * bank->dims, bank->vectors + row * bank->dims, bank->dims),
          row);
}

INLINE void fetch(const int8_t *code, int64_t padded) {
    for (int64_t i = 0; i < padded; i += 64) __builtin_prefetch(code + i);
}

/* Compare a query with the lanes of panels, from row `first` on, whose shifted products are `values`. */
static void search(const Bank *bank, const Queries *queries, int64_t query, int64_t first, int64_t lanes,
                   int32_t *values, int32_t shifted, Found *found) {
    int32_t left[BLOCK * LANES], early = 0;
    const float *errors = bank->panel_errors + first;
    const float error = queries->sketch_errors[query];
    float own = reach(limit_of(found), bank->panel_steps, error);
    int64_t count = undismissed(values, bank->panel_norms + first, shifted, errors, own, lanes, left);
    if (!count) return;
    for (int64_t i = 0; i < count; i++)
        if (values[left[i]] < values[left[early]]) early = (int32_t)i;
    early = left[early];
    consider(bank, queries, query, first + early, found);
    double limit = limit_of(found);
    own = reach(limit, bank->panel_steps, error);
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++) {
        left[kept] = left[i];
        kept += left[i] != early && within(values[left[i]], errors[left[i]] + own);
    }
    for (int64_t i = 0; i < kept && found->spent <= found->budget; i++) {
        if (i + AHEAD < kept) fetch(bank->codes + (first + left[i + AHEAD]) * bank->padded, bank->padded);
        if (!within(values[left[i]], errors[left[i]] + own)) continue;
        consider(bank, queries, query, first + left[i], found);
        if (limit_of(found) == limit) continue;
        limit = limit_of(found);
        own = reach(limit, bank->panel_steps, error);
    }
}

/* The k nearest rows of up to MANY queries: squared distances and rows, [count, k]. A query that would need more
 * than `budget` exact distances is given up: its first row is -1. */
static void nearest_of(const Bank *bank, const Queries *queries, int64_t first, int64_t count, int64_t k,
                       int64_t budget, double *distance, int64_t *rows) {
    const int64_t number = (bank->rows + LANES - 1) / LANES, sketch = bank->sketch;
    int32_t values[GROUP * BLOCK * LANES], shifted[MANY];
    Found found[MANY];
    for (int64_t i = 0; i < count; i++) {
        found[i] = (Found){.distance = distance + i * k, .row = rows + i * k, .k = k, .budget = budget};
        shifted[i] = shifted_norm(queries->sketches + (first + i) * sketch, sketch, queries->sketch_norms[first + i]);
    }
    for (int64_t p = 0; p < number; p += BLOCK) {
        const int64_t block = number - p < BLOCK ? number - p : BLOCK;
        for (int64_t i = 0; i < count; i += GROUP) {
            const int group = count - i < GROUP ? (int)(count - i) : GROUP;
            products(queries->sketches + (first + i) * sketch, group, sketch, bank->panels + p * LANES * sketch, block,
                     values);
            for (int r = 0; r < group; r++)
                if (found[i + r].spent <= budget)
                    search(bank, queries, first + i + r, p * LANES, block * LANES, values + r * block * LANES,
                           shifted[i + r], &found[i + r]);
        }
    }
    for (int64_t i = 0; i < count; i++)
        if (found[i].spent > budget) rows[i * k] = -1;
}

static void nearest(const Bank *bank, const Queries *queries, int64_t first, int64_t last, int64_t k, int64_t budget,
                    double *distance, int64_t *rows) {
    for (int64_t low = first; low < last; low += MANY)
        nearest_of(bank, queries, low, last - low < MANY ? last - low : MANY, k, budget, distance + low * k,
                   rows + low * k);
}

/* ---- coreset ---- */

static void remember(Coreset *state, int64_t row, double value) {
    int64_t number = state->made++;
    const int8_t *code = state->codes + row * state->padded;
    state->picks[number] = row;
    state->values[number] = value;
    state->best[row] = -1.0;
    set_lane(state->panels, number, code, state->padded);
    state->pick_norms[number] = state->norms[row];
    state->pick_errors[number] = state->errors[row];
    int32_t cell = state->cell[row], place = state->sizes[cell]++;
    if (place % LINK == 0) {
        int32_t link = (int32_t)state->links++;
        if (place)
            state->next[state->tail[cell]] = link;
        else
            state->head[cell] = link;
        state->tail[cell] = link;
    }
    int64_t lane = (int64_t)state->tail[cell] * LINK + place % LINK;
    set_lane(state->cell_panels, lane, code, state->padded);
    state->cell_norms[lane] = state->norms[row];
    state->cell_errors[lane] = state->errors[row];
    state->cell_picks[lane] = (int32_t)number;
}

/* Compare a point with the picks whose shifted products are `values`; `numbers` are theirs, NULL if consecutive.
 * Returns the point's reach. A point that the codes alone show to be below the threshold gets an upper bound. */
static float meet(const Coreset *state, int64_t row, float own, int32_t *values, const int32_t *norms,
                  const float *errors, const int32_t *numbers, int64_t first, int64_t lanes, int32_t shifted,
                  double threshold) {
    int32_t left[BLOCK * LANES];
    int64_t found = undismissed(values, norms, shifted, errors, own, lanes, left);
    if (!found) return own;
    const float *point = state->points + row * state->dims;
    double *best = &state->best[row];
    int32_t early = left[0];
    for (int64_t i = 1; i < found; i++)
        if (values[left[i]] < values[early]) early = left[i];
    double most = (sqrt(values[early]) + errors[early] + state->errors[row]) * (1 + 1e-5) / state->steps;
    if (most * most < threshold && most * most < *best) {
        *best = most * most;
        state->bounded_by[row] = numbers ? numbers[early] : (int32_t)first + early;
        return own;
    }
    for (int64_t i = -1; i < found && *best >= threshold; i++) {
        int32_t lane = i < 0 ? early : left[i];
        if ((i >= 0 && lane == early) || !within(values[lane], errors[lane] + own)) continue;
        int64_t pick = state->picks[numbers ? numbers[lane] : first + lane];
        double distance = squared_distance(point, state->points + pick * state->dims, state->dims);
        if (distance >= *best) continue;
        *best = distance;
        state->bounded_by[row] = EXACT;
        own = reach(distance, state->steps, state->errors[row]);
    }
    return own;
}

/* Some rows that meet picks together. */
typedef struct {
    int32_t row[GROUP], shifted[GROUP];
    float own[GROUP];
    int count;
} Group;

static void join(const Coreset *state, Group *group, int8_t *codes, int32_t row) {
    int8_t *code = codes + group->count * state->padded;
    memcpy(code, state->codes + row * state->padded, (size_t)state->padded);
    group->shifted[group->count] = shifted_norm(code, state->padded, state->norms[row]);
    group->own[group->count] = reach(state->best[row], state->steps, state->errors[row]);
    group->row[group->count++] = row;
}

/* Let rows of one cell meet the picks of that cell: nearly always one of those is near enough. */
static void search_cell(const Coreset *state, Group *group, const int8_t *codes, double threshold) {
    int32_t values[GROUP * LINK], cell = state->cell[group->row[0]], size = state->sizes[cell], low = size;
    for (int r = 0; r < group->count; r++)
        low = state->seen[group->row[r]] < low ? state->seen[group->row[r]] : low;
    int32_t link = state->head[cell];
    for (int32_t at = 0; at < size; at += LINK, link = state->next[link]) {
        if (at + LINK <= low) continue;
        int32_t end = size - at < LINK ? size : at + LINK, lanes = (end - at + LANES - 1) / LANES * LANES;
        int64_t lane = (int64_t)link * LINK;
        products(codes, group->count, state->padded, state->cell_panels + lane * state->padded, lanes / LANES, values);
        int left = 0;
        for (int r = 0; r < group->count; r++) {
            int32_t row = group->row[r];
            if (state->best[row] < threshold) continue;
            group->own[r] = meet(state, row, group->own[r], values + r * lanes, state->cell_norms + lane,
                                 state->cell_errors + lane, state->cell_picks + lane, 0, lanes, group->shifted[r],
                                 threshold);
            if (state->best[row] < threshold) continue;
            state->seen[row] = end;
            left++;
        }
        if (!left) return;
    }
}

/* Make the value of a row that has met all picks exact: whatever was dismissed is farther than its bound. */
static void settle(const Coreset *state, int64_t row) {
    if (state->bounded_by[row] == EXACT) return;
    int64_t pick = state->picks[state->bounded_by[row]];
    double distance = squared_distance(state->points + row * state->dims, state->points + pick * state->dims, state->dims);
    if (distance < state->best[row]) state->best[row] = distance;
    state->bounded_by[row] = EXACT;
}

/* Let rows, which come ordered by cell, meet the picks made since, each until it falls below the threshold. */
static void refresh(const Coreset *state, int32_t *rows, int64_t count, double threshold) {
    int8_t codes[GROUP * state->padded];
    Group group;
    for (int64_t i = 0; i < count;) {
        group.count = 0;
        int32_t cell = state->cell[rows[i]];
        while (i < count && group.count < GROUP && state->cell[rows[i]] == cell) join(state, &group, codes, rows[i++]);
        search_cell(state, &group, codes, threshold);
    }
    int32_t values[GROUP * BLOCK * LANES];
    int64_t made = state->made, start = made, kept = 0;
    for (int64_t i = 0; i < count; i++)
        if (state->best[rows[i]] >= threshold) {
            rows[kept++] = rows[i];
            start = state->met[rows[i]] < start ? state->met[rows[i]] : start;
        }
    for (int64_t block = start / LANES * LANES; block < made; block += BLOCK * LANES) {
        int64_t end = block + BLOCK * LANES < made ? block + BLOCK * LANES : made;
        int64_t number = (end - block + LANES - 1) / LANES;
        for (int64_t i = 0; i < kept;) {
            group.count = 0;
            for (; i < kept && group.count < GROUP; i++)
                if (state->best[rows[i]] >= threshold && state->met[rows[i]] < end) join(state, &group, codes, rows[i]);
            products(codes, group.count, state->padded, state->panels + block * state->padded, number, values);
            for (int r = 0; r < group.count; r++) {
                int32_t row = group.row[r];
                meet(state, row, group.own[r], values + r * number * LANES, state->pick_norms + block,
                     state->pick_errors + block, NULL, block, number * LANES, group.shifted[r], threshold);
                if (state->best[row] >= threshold) state->met[row] = (int32_t)end;
            }
        }
    }
    for (int64_t i = 0; i < kept; i++)
        if (state->best[rows[i]] >= threshold) settle(state, rows[i]);
}

/* Doubles that are not negative are ordered as their bits are. */
INLINE int64_t bits_of(double value) {
    int64_t bits;
    memcpy(&bits, &value, 8);
    return bits;
}

/* The first `size` positive rows by (value descending, row ascending), as ascending rows; returns how many. With
 * them come value and row of the first one left outside, 0 and -1 if nothing above 0 is. `keys` has room for all. */
static int64_t first(const double *best, int64_t count, int64_t size, int64_t *keys, int64_t *rows, double *threshold,
                     int64_t *outsider) {
    int64_t left = 0, wanted = size, level = 0, found = 0, ties = 0; /* keys left; the wanted one's place among them */
    for (int64_t i = 0; i < count; i++) {
        keys[left] = bits_of(best[i]);
        left += best[i] > 0.0;
    }
    if (left > size) {
        /* Of the keys, those that share the leading bits of the wanted one are kept: 11 bits, then 13 at a time. */
        for (int shift = 52; shift >= 0; shift -= 13) {
            int64_t counts[1 << 13] = {0}, above = 0, kept = 0, mask = (1 << 13) - 1, bin = mask;
            for (int64_t i = 0; i < left; i++) counts[keys[i] >> shift & mask]++;
            while (above + counts[bin] < wanted) above += counts[bin--];
            wanted -= above;
            for (int64_t i = 0; i < left; i++) {
                keys[kept] = keys[i];
                kept += (keys[i] >> shift & mask) == bin;
            }
            left = kept;
        }
        level = keys[0];
        ties = wanted;
    }
    int64_t tie = -1, below = 0, below_row = -1;
    for (int64_t i = 0; i < count; i++) {
        int64_t bits = bits_of(best[i]);
        if (bits <= 0) continue;
        if (bits > level || (bits == level && ties-- > 0)) {
            rows[found++] = i;
        } else if (bits == level) {
            tie = tie < 0 ? i : tie;
        } else if (bits > below) {
            below = bits;
            below_row = i;
        }
    }
    if (tie >= 0) below = level;
    memcpy(threshold, &below, 8);
    *outsider = tie >= 0 ? tie : below_row;
    return found;
}

/* Those of rows that have not met all picks, ordered by cell; returns how many, and how many meetings they miss. */
static int64_t behind(const Coreset *state, const int64_t *rows, int64_t count, int32_t *out, int64_t *missed) {
    int64_t starts[MAX_CELLS + 1] = {0};
    *missed = 0;
    for (int64_t i = 0; i < count; i++)
        if (state->met[rows[i]] < state->made) {
            starts[state->cell[rows[i]] + 1]++;
            *missed += state->made - state->met[rows[i]];
        }
    for (int64_t i = 0; i < state->cells; i++) starts[i + 1] += starts[i];
    int64_t found = starts[state->cells];
    for (int64_t i = 0; i < count; i++)
        if (state->met[rows[i]] < state->made) out[starts[state->cell[rows[i]]]++] = (int32_t)rows[i];
    return found;
}

/* Doubles that are not negative are ordered as their bits are, and those can be compared many at a time. */
static int64_t farthest(const double *best, int64_t count) {
    int64_t largest = INT64_MIN;
    for (int64_t i = 0; i < count; i++) {
        int64_t bits;
        memcpy(&bits, best + i, 8);
        largest = bits > largest ? bits : largest;
    }
    double value;
    memcpy(&value, &largest, 8);
    for (int64_t i = 0; i < count; i++)
        if (best[i] == value) return i;
    return 0;
}

static int64_t seat(Coreset *state, int64_t count, double threshold) {
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++) {
        int32_t row = state->player_rows[i];
        if (state->player_best[i] < threshold) continue;
        state->player_rows[kept] = row;
        state->player_best[kept] = state->player_best[i];
        state->player_norms[kept] = state->norms[row];
        state->player_reaches[kept] = reach(state->player_best[i], state->steps, state->errors[row]);
        set_lane(state->player_panels, kept, state->codes + (int64_t)row * state->padded, state->padded);
        kept++;
    }
    for (int64_t i = kept; i % LANES; i++) {
        state->player_norms[i] = 0;
        state->player_reaches[i] = NOWHERE;
    }
    return kept;
}

/* Play the greedy among rows (ascending, having met all picks) while its maximum comes before the threshold's row.
 * Returns whether the selection is complete; then values[made] is the last squared radius. */
static int play(Coreset *state, const int64_t *rows, int64_t count, double threshold, int64_t outsider) {
    for (int64_t i = 0; i < count; i++) {
        state->player_rows[i] = (int32_t)rows[i];
        state->player_best[i] = state->best[rows[i]];
    }
    int64_t players = seat(state, count, threshold), alive = players;
    int complete = 0;
    while (players) {
        int64_t place = farthest(state->player_best, players), row = state->player_rows[place];
        double value = state->player_best[place];
        if (value < threshold || value <= 0.0 || (value == threshold && row > outsider)) break;
        if (state->made == state->wanted || sqrt(value) <= state->stop) {
            state->values[state->made] = value;
            complete = 1;
            break;
        }
        remember(state, row, value);
        state->player_best[place] = -1.0;
        state->player_reaches[place] = NOWHERE;
        alive--;
        const int8_t *code = state->codes + row * state->padded;
        const float *point = state->points + row * state->dims;
        int32_t shifted = shifted_norm(code, state->padded, state->norms[row]);
        int32_t values[BLOCK * LANES], lanes[BLOCK * LANES];
        for (int64_t low = 0; low < players; low += BLOCK * LANES) {
            int64_t here = players - low < BLOCK * LANES ? players - low : BLOCK * LANES;
            int64_t number = (here + LANES - 1) / LANES;
            products(code, 1, state->padded, state->player_panels + low * state->padded, number, values);
            int64_t found = undismissed(values, state->player_norms + low, shifted, state->player_reaches + low,
                                        state->errors[row], number * LANES, lanes);
            for (int64_t i = 0; i < found; i++) {
                int64_t player = low + lanes[i], other = state->player_rows[player];
                double *best = &state->player_best[player];
                double distance = squared_distance(point, state->points + other * state->dims, state->dims);
                if (distance >= *best) continue;
                *best = distance;
                state->player_reaches[player] = reach(distance, state->steps, state->errors[other]);
                if (distance < threshold) {
                    /* It leaves, having met all picks up to this one; whatever comes later waits until it matters. */
                    state->best[other] = distance;
                    state->met[other] = (int32_t)state->made;
                    state->player_reaches[player] = NOWHERE;
                    alive--;
                }
            }
        }
        if (4 * alive < 3 * players && players > 4 * LANES) players = alive = seat(state, players, threshold);
    }
    for (int64_t i = 0; i < players; i++) {
        int32_t row = state->player_rows[i];
        if (state->player_best[i] < threshold) continue;
        state->best[row] = state->player_best[i];
        state->met[row] = (int32_t)state->made;
    }
    return complete;
}

const Kernels KERNELS = {LEVELS, encode, sketch, pack, nearest, distances, cells, first, behind, refresh, play};
