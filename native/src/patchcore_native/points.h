/* Points: float64 distances, codes, sketches, panels, cells. Part of kernels.c. */

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

/* Fetch what is soon to be read: rows lie anywhere, and waiting for memory costs more than their distance. */
INLINE void fetch(const void *row, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)row + i);
}

/* Above what float32 loses on the way to a comparison; ROUND_UP, TINY and FAR in quantisation.py. */
INLINE float rounded_up(double value) { return value < 1e18 ? (float)(value * (1 + 1e-5) + 1e-5) : 1e18f; }

INLINE float reach(double squared, double steps, float error) {
    return rounded_up(sqrt(squared) * steps + error);
}

/* The nearest whole number that is a code; NaN becomes one too, and shows in the error. */
INLINE double nearest_level(double scaled) {
    const double rounding = 6755399441055744.0; /* adding and taking it away rounds to a whole number */
    double whole = scaled < LEVELS ? scaled : LEVELS;
    whole = whole > -LEVELS ? whole : -LEVELS;
    return (whole + rounding) - rounding;
}

static void encode(const float *points, int64_t count, int64_t dims, int64_t padded, const double *centre,
                   double steps, int8_t *codes, int32_t *norms, float *errors) {
    for (int64_t row = 0; row < count; row++) {
        const float *restrict x = points + row * dims;
        int8_t *restrict code = codes + row * padded;
        double lost[16] = {0};
        int32_t norm = 0;
        int64_t i = 0;
        for (; i + 16 <= dims; i += 16)
            for (int k = 0; k < 16; k++) {
                double scaled = ((double)x[i + k] - centre[i + k]) * steps, whole = nearest_level(scaled);
                lost[k] += (scaled - whole) * (scaled - whole);
                code[i + k] = (int8_t)(int32_t)whole;
            }
        for (; i < dims; i++) {
            double scaled = ((double)x[i] - centre[i]) * steps, whole = nearest_level(scaled);
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

/* Values of a register, and how many of whose sums fit all registers: rows, and registers a row. */
#if defined(USE_AVX512)
enum { WIDTH = 16, PROJECTED_ROWS = 8, PROJECTED = 2 };
#elif defined(USE_AVX2)
enum { WIDTH = 8, PROJECTED_ROWS = 4, PROJECTED = 2 };
#else
enum { WIDTH = 4, PROJECTED_ROWS = 2, PROJECTED = 4 };
#endif
typedef float Floats __attribute__((vector_size(4 * WIDTH)));

/* Products of PROJECTED_ROWS rows with WIDTH x PROJECTED directions, which are lanes of one panel or of consecutive
 * ones. */
static void project_tile(const float *rows, int64_t dims, const float *directions, float *out) {
    Floats sums[PROJECTED_ROWS][PROJECTED];
    UNROLL for (int r = 0; r < PROJECTED_ROWS; r++) UNROLL for (int v = 0; v < PROJECTED; v++) sums[r][v] = (Floats){0};
    for (int64_t i = 0; i < dims; i++) {
        Floats lanes[PROJECTED];
        UNROLL for (int v = 0; v < PROJECTED; v++) {
            int panel = v * WIDTH / LANES, lane = v * WIDTH % LANES;
            memcpy(&lanes[v], directions + (panel * dims + i) * LANES + lane, sizeof lanes[v]);
        }
        UNROLL for (int r = 0; r < PROJECTED_ROWS; r++) {
            Floats same = (Floats){0} + rows[r * dims + i];
            UNROLL for (int v = 0; v < PROJECTED; v++) sums[r][v] += same * lanes[v];
        }
    }
    UNROLL for (int r = 0; r < PROJECTED_ROWS; r++)
        memcpy(out + r * SKETCH, sums[r], sizeof sums[r]);
}

/* Sketches of points, float32 [count, SKETCH], and bounds of their errors; kernels/nearest/native.py has the proof.
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
        for (int lane = 0; lane < SKETCH; lane += WIDTH * PROJECTED)
            for (int r = 0; r < GROUP; r += PROJECTED_ROWS)
                project_tile(centred + r * dims, dims, directions + lane * dims, all + r * SKETCH + lane);
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
