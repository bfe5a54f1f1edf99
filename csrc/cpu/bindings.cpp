// crrl._cpu: addresses in, nothing out. The caller checks dtype, contiguity and device, and keeps the memory alive.
#include <pybind11/pybind11.h>

#include <cstdint>

#include "gather.hpp"

namespace py = pybind11;

namespace {

#if defined(__clang__)
constexpr const char* kCompiler = "clang " __clang_version__;
#elif defined(__GNUC__)
constexpr const char* kCompiler = "gcc " __VERSION__;
#else
constexpr const char* kCompiler = "unknown";
#endif

template <typename T>
T* pointer(int64_t address) {
  return reinterpret_cast<T*>(static_cast<std::intptr_t>(address));
}

void ragged_gather(int64_t frames, int64_t num_frames, int64_t offsets, int64_t num_clips, int64_t index, int64_t batch,
                   int64_t max_frames, int64_t channels, int64_t x, int64_t v, int64_t lengths) {
  crrl::RaggedGatherParams params{};
  params.frames = pointer<const float>(frames);
  params.offsets = pointer<const int64_t>(offsets);
  params.index = pointer<const int64_t>(index);
  params.num_frames = num_frames;
  params.num_clips = num_clips;
  params.batch = batch;
  params.max_frames = max_frames;
  params.channels = channels;
  params.x = pointer<float>(x);
  params.v = pointer<float>(v);
  params.lengths = pointer<int64_t>(lengths);
  crrl::ragged_gather(params);
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "Native CPU operators. Pointers are passed as int64 addresses.";
  m.attr("abi") = 1;  // raised with every change of a signature below, so that a stale build is recognised
  m.attr("compiler") = kCompiler;
  m.def("ragged_gather", &ragged_gather, py::arg("frames"), py::arg("num_frames"), py::arg("offsets"),
        py::arg("num_clips"), py::arg("index"), py::arg("batch"), py::arg("max_frames"), py::arg("channels"),
        py::arg("x"), py::arg("v"), py::arg("lengths"), py::call_guard<py::gil_scoped_release>(),
        R"(Gather clips into a zero-padded batch, with their velocities in the same pass.

Args (addresses of contiguous memory, unless a size):
    frames: float32 [num_frames, channels], the clips end to end.
    offsets: int64 [num_clips + 1], clip i is frames[offsets[i] : offsets[i + 1]].
    index: int64 [batch], the clip of each row.
    x: float32 [batch, max_frames, channels], written.
    v: float32 [batch, max_frames, channels], written; 0: no velocities.
    lengths: int64 [batch], written.

Raises:
    IndexError: an index is not one of the clips.
    ValueError: a size is negative, or a clip is empty, longer than max_frames or not within the frames.
)");
}
