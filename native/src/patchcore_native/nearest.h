/* The nearest rows of a bank. Part of kernels.c. */

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

/* Fetch what `consider` reads first of a row. */
INLINE void fetch_row(const Bank *bank, int64_t row) {
    if (bank->sketch != bank->padded)
        fetch(bank->codes + row * bank->padded, bank->padded);
    else
        fetch(bank->vectors + row * bank->dims, 4 * bank->dims);
}

/* The lanes of panels that a query cannot dismiss. */
typedef struct {
    int64_t count;
    int32_t early; /* the most promising one */
    int32_t left[BLOCK * LANES];
} Sieve;

/* Sieve the lanes of panels, from row `first` on, whose shifted products are `values`. */
static void sieve(const Bank *bank, const Queries *queries, int64_t query, int64_t first, int64_t lanes,
                  int32_t *values, int32_t shifted, const Found *found, Sieve *out) {
    float own = reach(limit_of(found), bank->panel_steps, queries->sketch_errors[query]);
    out->count = undismissed(values, bank->panel_norms + first, shifted, bank->panel_errors + first, own, lanes,
                             out->left);
    if (!out->count) return;
    out->early = out->left[0];
    for (int64_t i = 1; i < out->count; i++)
        if (values[out->left[i]] < values[out->early]) out->early = out->left[i];
    fetch_row(bank, first + out->early);
}

/* Compare a query with what its sieve has left. */
static void search(const Bank *bank, const Queries *queries, int64_t query, int64_t first, const int32_t *values,
                   Sieve *sieved, Found *found) {
    int32_t *left = sieved->left, early = sieved->early;
    const float *errors = bank->panel_errors + first;
    const float error = queries->sketch_errors[query];
    consider(bank, queries, query, first + early, found);
    double limit = limit_of(found);
    float own = reach(limit, bank->panel_steps, error);
    int64_t kept = 0;
    for (int64_t i = 0; i < sieved->count; i++) {
        left[kept] = left[i];
        kept += left[i] != early && within(values[left[i]], errors[left[i]] + own);
    }
    for (int64_t i = 0; i < kept && found->spent <= found->budget; i++) {
        if (i + AHEAD < kept) fetch_row(bank, first + left[i + AHEAD]);
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
    Sieve sieved[GROUP];
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
                sieve(bank, queries, first + i + r, p * LANES, block * LANES, values + r * block * LANES, shifted[i + r],
                      &found[i + r], &sieved[r]);
            for (int r = 0; r < group; r++)
                if (sieved[r].count && found[i + r].spent <= budget)
                    search(bank, queries, first + i + r, p * LANES, values + r * block * LANES, &sieved[r],
                           &found[i + r]);
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
