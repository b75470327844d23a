// cuBLASLt, as far as the ceilings call it, beside the driver in driver.c: it checks what it is
// given, refuses large products as the real one may, and writes no more than the last output.
//
//   cc -shared -fPIC -I tests/emulator tests/emulator/cublaslt.c -o DIR/libcublasLt.so

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef int status;
enum { SUCCESS = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { R_32F = 0, R_16F = 2, R_8I = 3, R_32I = 10, R_16BF = 14, R_8F_E4M3 = 28 };
enum { COMPUTE_32F = 68, COMPUTE_32I = 72 };
enum { ATTRIBUTE_TRANSA = 3, ATTRIBUTE_FAST_ACCUM = 25, ATTRIBUTE_MAX_WORKSPACE = 1 };

#define OUTPUTS_MAX 5000

typedef struct {
    int type;
    uint64_t rows, columns;
} layout;

typedef struct {
    int compute, scale, transposed, fast;
    uint64_t workspace;
} settings;

static int alive;

static void *made(size_t size) { return alive++, calloc(1, size); }
static status destroyed(void *it) { return free(it), alive--, SUCCESS; }

__attribute__((destructor)) static void all_destroyed(void) {
    if (!alive) return;
    fprintf(stderr, "cuBLASLt: %d objects were not destroyed\n", alive);
    _exit(1);
}

size_t cublasLtGetVersion(void) { return 130000; }
status cublasLtCreate(void **handle) { return *handle = made(1), SUCCESS; }
status cublasLtDestroy(void *handle) { return destroyed(handle); }
status cublasLtMatmulPreferenceCreate(settings **to) { return *to = made(sizeof **to), SUCCESS; }
status cublasLtMatmulPreferenceDestroy(settings *it) { return destroyed(it); }
status cublasLtMatmulDescDestroy(settings *it) { return destroyed(it); }
status cublasLtMatrixLayoutDestroy(layout *it) { return destroyed(it); }

status cublasLtMatmulDescCreate(settings **to, int compute, int scale) {
    *to = made(sizeof **to);
    (*to)->compute = compute, (*to)->scale = scale;
    return SUCCESS;
}

status cublasLtMatmulDescSetAttribute(settings *of, int attribute, const void *from, size_t size) {
    if (attribute == ATTRIBUTE_TRANSA && size == 4)
        of->transposed = *(int32_t *)from;
    else if (attribute == ATTRIBUTE_FAST_ACCUM && size == 1)
        of->fast = *(int8_t *)from;
    else
        return INVALID_VALUE;
    return SUCCESS;
}

status cublasLtMatmulPreferenceSetAttribute(settings *of, int attribute, const void *from,
                                            size_t size) {
    if (attribute != ATTRIBUTE_MAX_WORKSPACE || size != 8) return INVALID_VALUE;
    return of->workspace = *(uint64_t *)from, SUCCESS;
}

status cublasLtMatrixLayoutCreate(layout **to, int type, uint64_t rows, uint64_t columns,
                                  int64_t pitch) {
    if ((uint64_t)pitch != rows) return INVALID_VALUE;
    *to = made(sizeof **to);
    **to = (layout){type, rows, columns};
    return SUCCESS;
}

static status fits(const settings *how, const layout *a, const layout *b, const layout *c,
                   const layout *d) {
    int integers = a->type == R_8I, byte_floats = a->type == R_8F_E4M3;
    int output = integers ? R_32I : byte_floats ? R_16BF : a->type;
    if (b->type != a->type || c->type != output || d->type != output) return INVALID_VALUE;
    if (how->compute != (integers ? COMPUTE_32I : COMPUTE_32F)) return INVALID_VALUE;
    if (how->scale != (integers ? R_32I : R_32F)) return INVALID_VALUE;
    if (!how->transposed || how->fast != byte_floats) return INVALID_VALUE;
    if (a->rows != b->rows || a->columns != d->rows || b->columns != d->columns)
        return INVALID_VALUE;
    return d->rows * d->columns > OUTPUTS_MAX ? NOT_SUPPORTED : SUCCESS;
}

typedef struct {
    uint64_t algorithm[8];
    size_t workspace;
    status state;
    float waves;
    int reserved[4];
} result;

status cublasLtMatmulAlgoGetHeuristic(void *handle, settings *how, layout *a, layout *b, layout *c,
                                      layout *d, settings *preference, int wanted, result *to,
                                      int *count) {
    status said = wanted < 1 || !preference->workspace ? INVALID_VALUE : fits(how, a, b, c, d);
    if (said == SUCCESS) *to = (result){.algorithm = {preference->workspace}}, *count = 1;
    return said;
}

static char *last_byte(const void *matrix, const layout *of) {
    size_t each = of->type == R_32I ? 4 : of->type == R_8I || of->type == R_8F_E4M3 ? 1 : 2;
    return (char *)matrix + of->rows * of->columns * each - 1;
}

status cublasLtMatmul(void *handle, settings *how, const void *alpha, const void *a, layout *of_a,
                      const void *b, layout *of_b, const void *beta, const void *c, layout *of_c,
                      void *d, layout *of_d, const uint64_t *algorithm, void *workspace,
                      size_t workspace_size, void *stream) {
    uint32_t one = how->scale == R_32I ? 1 : 0x3f800000;
    if (*(uint32_t *)alpha != one || *(uint32_t *)beta != 0) return INVALID_VALUE;
    if (!workspace || workspace_size < algorithm[0]) return INVALID_VALUE;
    *last_byte(d, of_d) = *last_byte(a, of_a) ^ *last_byte(b, of_b);
    return fits(how, of_a, of_b, of_c, of_d);
}
