#include <cuda.h>

/// Adds two arrays.
template <typename T>
__global__ void __launch_bounds__(256, 2) add(const T* __restrict__ a, T* out, int n) {
  __shared__ float tile[32];
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] += a[i];
  __syncthreads();
}

__device__ __forceinline__ float square(float x) { return x * x; }

struct Op {
  __host__ __device__ float operator()(float x) const { return square(x); }
};

__constant__ float table[3];

extern "C" void launch(const float* a, float* b, int n, cudaStream_t stream) {
  add<float><<<dim3(1, 2), 256, 0, stream>>>(a, b, n);
}
