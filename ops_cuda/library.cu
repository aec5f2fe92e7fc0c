// The parts of the interface that are the same on every machine: CUDA build.
#include "cuda.cuh"

int ls_abi(void) { return LS_ABI; }

const char* ls_error_string(int code) {
    return code == LS_BAD_ARGUMENT ? "an argument is out of range"
                                   : cudaGetErrorString(cudaError_t(code));
}
