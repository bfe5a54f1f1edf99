// What this processor's arithmetic units reach at most, measured: the ceiling that the bench states its figures
// against.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace crrl {

// The units that this processor has and the operating system allows, each with its GFLOP/s on `threads` threads: the
// best of several bursts that take about `seconds` for each unit. fp32 multiply-add: "avx512", "avx2", "plain"; dot
// products of bf16 pairs summed in fp32: "avx512_bf16", "amx_bf16". Throws std::invalid_argument for less than one
// thread or no time.
std::vector<std::pair<std::string, double>> peak_gflops(int threads, double seconds);

}  // namespace crrl
