// crrl._cpu: addresses in, nothing out. The caller checks dtype, contiguity and device, and keeps the memory alive.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "gather.hpp"
#include "gru.hpp"

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

crrl::GruShape gru_shape(int64_t active, int64_t starts, int64_t steps, int64_t frames, int64_t batch, int64_t hidden,
                         int64_t directions) {
  return {pointer<const int64_t>(active), pointer<const int64_t>(starts), steps, frames, batch, hidden, directions};
}

const char* or_null(const std::string& isa) { return isa.empty() ? nullptr : isa.c_str(); }

void gru_forward(const crrl::GruShape& shape, int64_t gates, int64_t w_hh, int64_t b_hh, int64_t h, int64_t y,
                 int64_t before, int64_t r_z, int64_t n, int64_t n_h, int threads, const std::string& isa) {
  crrl::GruForwardParams params{};
  params.shape = shape;
  params.gates = pointer<const float>(gates);
  params.w_hh = pointer<const float>(w_hh);
  params.b_hh = pointer<const float>(b_hh);
  params.h = pointer<float>(h);
  params.y = pointer<float>(y);
  params.before = pointer<float>(before);
  params.r_z = pointer<float>(r_z);
  params.n = pointer<float>(n);
  params.n_h = pointer<float>(n_h);
  crrl::gru_forward(params, threads, or_null(isa));
}

void gru_backward(const crrl::GruShape& shape, int64_t w_hh, int64_t before, int64_t r_z, int64_t n, int64_t n_h,
                  int64_t dy, int64_t dh, int64_t dgates, int64_t drecurrent, int threads, const std::string& isa) {
  crrl::GruBackwardParams params{};
  params.shape = shape;
  params.w_hh = pointer<const float>(w_hh);
  params.before = pointer<const float>(before);
  params.r_z = pointer<const float>(r_z);
  params.n = pointer<const float>(n);
  params.n_h = pointer<const float>(n_h);
  params.dy = pointer<const float>(dy);
  params.dh = pointer<float>(dh);
  params.dgates = pointer<float>(dgates);
  params.drecurrent = pointer<float>(drecurrent);
  crrl::gru_backward(params, threads, or_null(isa));
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "Native CPU operators. Pointers are passed as int64 addresses.";
  m.attr("abi") = 2;  // raised with every change of a signature below, so that a stale build is recognised
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
  py::class_<crrl::GruShape>(m, "GruShape", "Rows sorted by falling length, packed time-major; see csrc/cpu/gru.hpp.")
      .def(py::init(&gru_shape), py::arg("active"), py::arg("starts"), py::arg("steps"), py::arg("frames"),
           py::arg("batch"), py::arg("hidden"), py::arg("directions"));
  m.def("gru_isa", &crrl::gru_isa, "The instruction set that the GRU kernels use here.");
  m.def("gru_forward", &gru_forward, py::arg("shape"), py::arg("gates"), py::arg("w_hh"), py::arg("b_hh"), py::arg("h"),
        py::arg("y"), py::arg("before"), py::arg("r_z"), py::arg("n"), py::arg("n_h"), py::arg("threads"),
        py::arg("isa") = "", py::call_guard<py::gil_scoped_release>(),
        R"(The recurrent half of a GRU layer, all directions; shapes in csrc/cpu/gru.hpp, all float32 and contiguous.

before, r_z, n, n_h may all be 0 where no backward follows. isa forces an instruction set: avx512, avx2 or plain.

Raises:
    ValueError: a size is out of range, the rows are not packed by falling length, or there is no such isa here.
)");
  m.def("gru_backward", &gru_backward, py::arg("shape"), py::arg("w_hh"), py::arg("before"), py::arg("r_z"),
        py::arg("n"), py::arg("n_h"), py::arg("dy"), py::arg("dh"), py::arg("dgates"), py::arg("drecurrent"),
        py::arg("threads"), py::arg("isa") = "", py::call_guard<py::gil_scoped_release>(),
        "The backward of gru_forward; shapes in csrc/cpu/gru.hpp. Raises as gru_forward does.");
}
