// The decision: the exact score of each candidate, and those within a range.
//
//   queries        n × stride, int16       vectors, see src/vector.rs; padded with zeros
//   rows           n × stride, int16
//   stride         components from one vector to the next, a multiple of 32 (64 bytes)
//   candidates     n × (query, row)
//   lo, hi         a score is kept if lo <= score <= hi
//   found          n × (query, row, score)
//   count          1; the scores kept. Zero before the launch.
//
// A warp takes 32 candidates, one after the other, 16 bytes of each vector a lane; then every lane
// has one score to test. Sums wrap (they are unsigned), as they do on the CPU: exact and the same in
// any order for quantized vectors, and the same for any others.

#define THREADS 256

typedef struct {
    uint32 query, row;
    int score;
} scored;

// Two 16-bit components in one word, times two others.
DEVICE uint32 two_products(int a, int b) {
    return (uint32)((short)a * (short)b) + (uint32)((a >> 16) * (b >> 16));
}

KERNEL __launch_bounds__(THREADS) rescore(
    const short *queries, const short *rows, uint32 stride, const uint2 *candidates, uint64 n,
    int lo, int hi, scored *found, uint64 *count) {
    uint32 lane = threadIdx.x % WARP;
    uint64 warps = (uint64)gridDim.x * (THREADS / WARP);
    uint64 warp = (uint64)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    for (uint64 first = warp * WARP; first < n; first += warps * WARP) {
        uint2 mine = {0, 0};
        int score = 0;
        uint32 here = n - first < WARP ? (uint32)(n - first) : WARP;
        for (uint32 i = 0; i < here; i++) {
            uint2 pair = candidates[first + i];
            const short *query = queries + (uint64)pair.x * stride;
            const short *row = rows + (uint64)pair.y * stride;
            uint32 sum = 0;
            for (uint32 k = lane * 8; k < stride; k += WARP * 8) {
                int4 a = *(const int4 *)(query + k), b = *(const int4 *)(row + k);
                sum += two_products(a.x, b.x) + two_products(a.y, b.y);
                sum += two_products(a.z, b.z) + two_products(a.w, b.w);
            }
            for (uint32 other = WARP / 2; other > 0; other /= 2)
                sum += __shfl_xor_sync(ALL_LANES, sum, other);
            if (lane == i) {
                mine = pair;
                score = (int)sum;
            }
        }
        uint32 keep = lane < here && lo <= score && score <= hi;
        uint64 to = append(count, keep);
        if (keep) {
            scored hit;
            hit.query = mine.x;
            hit.row = mine.y;
            hit.score = score;
            found[to] = hit;
        }
    }
}
