// crrl._cpu. Operators take addresses and return nothing: the caller checks dtype, contiguity and device, and keeps the
// memory alive. The other functions are about the machine and the process, sizes of buffers, and .skeleton text.
#ifdef __linux__
#include <malloc.h>
#endif
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "gather.hpp"
#include "gru.hpp"
#include "infonce.hpp"
#include "linear.hpp"
#include "peak.hpp"
#include "skeleton.hpp"
#include "step.hpp"

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

// (address, elements from row to row, elements from frame to frame)
using FramesTuple = std::tuple<int64_t, int64_t, int64_t>;
// (w_ih, w_hh, b_ih, b_hh) of one direction
using WeightsTuple = std::tuple<int64_t, int64_t, int64_t, int64_t>;

template <typename T>
crrl::Frames<T> frames(const FramesTuple& from) {
  return {pointer<T>(std::get<0>(from)), std::get<1>(from), std::get<2>(from)};
}

crrl::GruLayer gru_layer(int64_t batch, int64_t steps, int64_t input, int64_t hidden, bool reverse, bool repeated,
                         int64_t lengths, const FramesTuple& x, int64_t h0, const std::vector<WeightsTuple>& weights) {
  if (weights.size() > 2) throw std::invalid_argument("a GRU layer has one or two directions");
  crrl::GruLayer layer{};
  layer.batch = batch;
  layer.steps = steps;
  layer.input = input;
  layer.hidden = hidden;
  layer.directions = static_cast<int64_t>(weights.size());
  layer.reverse = reverse;
  layer.lengths = pointer<const int64_t>(lengths);
  layer.x = frames<const void>(x);
  layer.repeated = repeated;
  layer.h0 = pointer<const void>(h0);
  for (size_t d = 0; d < weights.size(); ++d) {
    layer.w_ih[d] = pointer<const void>(std::get<0>(weights[d]));
    layer.w_hh[d] = pointer<const void>(std::get<1>(weights[d]));
    layer.b_ih[d] = pointer<const void>(std::get<2>(weights[d]));
    layer.b_hh[d] = pointer<const void>(std::get<3>(weights[d]));
  }
  return layer;
}

const char* or_null(const std::string& isa) { return isa.empty() ? nullptr : isa.c_str(); }

void gru_forward(const crrl::GruLayer& layer, const FramesTuple& y, int64_t h_n, int64_t reserve, bool bf16,
                 int threads, const std::string& isa) {
  crrl::GruForward params{};
  params.layer = layer;
  params.y = frames<void>(y);
  params.h_n = pointer<void>(h_n);
  params.reserve = pointer<void>(reserve);
  crrl::gru_forward(params, bf16, threads, or_null(isa));
}

void gru_backward(const crrl::GruLayer& layer, const FramesTuple& y, int64_t reserve, const FramesTuple& dy,
                  int64_t dh_n, const FramesTuple& dx, int64_t dh0, const std::vector<WeightsTuple>& gradients,
                  bool bf16, int threads, const std::string& isa) {
  if (static_cast<int64_t>(gradients.size()) != layer.directions) {
    throw std::invalid_argument("as many gradients as directions are needed");
  }
  crrl::GruBackward params{};
  params.layer = layer;
  params.y = frames<const void>(y);
  params.reserve = pointer<const void>(reserve);
  params.dy = frames<const void>(dy);
  params.dh_n = pointer<const void>(dh_n);
  params.dx = frames<void>(dx);
  params.dh0 = pointer<void>(dh0);
  for (size_t d = 0; d < gradients.size(); ++d) {
    params.dw_ih[d] = pointer<void>(std::get<0>(gradients[d]));
    params.dw_hh[d] = pointer<void>(std::get<1>(gradients[d]));
    params.db_ih[d] = pointer<void>(std::get<2>(gradients[d]));
    params.db_hh[d] = pointer<void>(std::get<3>(gradients[d]));
  }
  crrl::gru_backward(params, bf16, threads, or_null(isa));
}

void info_nce(int64_t batch, int64_t features, int64_t keys, int64_t q, int64_t k, int64_t queue, double temperature,
              int64_t loss, int64_t dq, int64_t queue_pointer, int64_t entering, int64_t num_entering, int threads,
              const std::string& isa) {
  const crrl::InfoNce params{batch,
                             features,
                             keys,
                             pointer<const float>(q),
                             pointer<const float>(k),
                             pointer<const float>(queue),
                             temperature,
                             pointer<float>(loss),
                             pointer<float>(dq)};
  crrl::info_nce(params, threads, or_null(isa));
  if (queue_pointer == 0) return;
  crrl::enqueue(pointer<float>(queue), keys, features, pointer<int64_t>(queue_pointer), pointer<const float>(entering),
                num_entering);
}

void ema_update(int64_t size, int64_t keys, int64_t queries, int64_t boundary, double momentum_head,
                double momentum_tail, int threads, const std::string& isa) {
  const crrl::EmaUpdate params{size,     pointer<float>(keys), pointer<const float>(queries),
                               boundary, momentum_head,        momentum_tail};
  crrl::ema_update(params, threads, or_null(isa));
}

void flat_step(int64_t size, int64_t parameters, int64_t gradients, int64_t first, int64_t second, int64_t keys,
               int64_t rates, bool nesterov, double weight_decay, double beta2, double eps, double max_norm,
               int64_t boundary, double momentum_head, double momentum_tail, int threads, const std::string& isa) {
  crrl::FlatStep params{};
  params.size = size;
  params.parameters = pointer<float>(parameters);
  params.gradients = pointer<const float>(gradients);
  params.first = pointer<float>(first);
  params.second = pointer<float>(second);
  params.rates = pointer<const float>(rates);
  params.nesterov = nesterov;
  params.weight_decay = weight_decay;
  params.beta2 = beta2;
  params.eps = eps;
  params.max_norm = max_norm;
  params.ema = {size, pointer<float>(keys), nullptr, boundary, momentum_head, momentum_tail};
  crrl::flat_step(params, threads, or_null(isa));
}

void linear_epoch(int64_t clips, int64_t features, int64_t classes, int64_t x, int64_t labels, int64_t order,
                  int64_t count, int64_t batch, int64_t weight, int64_t bias, int64_t weight_momentum,
                  int64_t bias_momentum, double rate, double momentum, const std::string& isa) {
  const crrl::LinearEpoch params{clips,
                                 features,
                                 classes,
                                 pointer<const float>(x),
                                 pointer<const int64_t>(labels),
                                 pointer<const int64_t>(order),
                                 count,
                                 batch,
                                 pointer<float>(weight),
                                 pointer<float>(bias),
                                 pointer<float>(weight_momentum),
                                 pointer<float>(bias_momentum),
                                 rate,
                                 momentum};
  crrl::linear_epoch(params, or_null(isa));
}

// By default glibc gives large blocks back to the system when they are freed, and the next one's pages have to be
// cleared again: several milliseconds of a training step.
void keep_memory() {
#ifdef M_MMAP_THRESHOLD
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
#endif
}

// GFLOP/s by the unit's name.
py::dict peak_gflops(int threads, double seconds) {
  const auto measured = [&] {
    py::gil_scoped_release release;
    return crrl::peak_gflops(threads, seconds);
  }();
  py::dict peaks;
  for (const auto& [unit, gflops] : measured) peaks[unit.c_str()] = gflops;
  return peaks;
}

// (frames, [(id, frames as int64 bytes, joints as float32 bytes)])
py::tuple parse_skeleton(const py::bytes& text) {
  const std::string_view view(text);
  const auto skeleton = [&] {
    py::gil_scoped_release release;
    return crrl::parse_skeleton(view);
  }();
  const auto bytes = [](const auto& values) {
    return py::bytes(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(values[0]));
  };
  py::list result;
  for (const auto& body : skeleton.bodies)
    result.append(py::make_tuple(body.id, bytes(body.frames), bytes(body.joints)));
  return py::make_tuple(skeleton.frames, result);
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "Native CPU operators. Pointers are passed as int64 addresses.";
  m.attr("abi") = 5;  // raised with every change of a signature below, so that a stale build is recognised
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
  m.def("keep_memory", &keep_memory, "Have the C library keep what the process frees, where it is glibc.");
  m.def("peak_gflops", &peak_gflops, py::arg("threads"), py::arg("seconds") = 0.2,
        "The measured peak of each arithmetic unit, GFLOP/s by name, seconds spent on each; see csrc/cpu/peak.hpp.");
  py::class_<crrl::GruLayer>(m, "GruLayer", "Sizes, inputs and weights of a GRU layer; see csrc/cpu/gru.hpp.")
      .def(
          py::init(&gru_layer), py::arg("batch"), py::arg("steps"), py::arg("input"), py::arg("hidden"),
          py::arg("reverse"), py::arg("repeated"), py::arg("lengths"), py::arg("x"), py::arg("h0"), py::arg("weights"),
          R"(lengths and h0 may be 0. x: (address, row stride, frame stride), the latter 0 for an input that is repeated;
weights: per direction the addresses of w_ih, w_hh, b_ih, b_hh, the biases 0 where there are none.)");
  m.def("gru_isa", &crrl::gru_isa, py::arg("bf16"), "The instruction set that the GRU kernels use here, or None.");
  m.def("gru_reserve_size", &crrl::gru_reserve_size, py::arg("batch"), py::arg("steps"), py::arg("hidden"),
        py::arg("directions"), "Elements of the memory between forward and backward.");
  m.def("gru_forward", &gru_forward, py::arg("layer"), py::arg("y"), py::arg("h_n"), py::arg("reserve"),
        py::arg("bf16"), py::arg("threads"), py::arg("isa") = "", py::call_guard<py::gil_scoped_release>(),
        R"(A GRU layer, all directions; shapes in csrc/cpu/gru.hpp, all float32, or all bfloat16 with bf16.

y: (address, row stride, frame stride). reserve may be 0 where no backward follows. isa forces an instruction set.

Raises:
    ValueError: a size or a length is out of range, or there is no such isa here.
)");
  m.def("gru_backward", &gru_backward, py::arg("layer"), py::arg("y"), py::arg("reserve"), py::arg("dy"),
        py::arg("dh_n"), py::arg("dx"), py::arg("dh0"), py::arg("gradients"), py::arg("bf16"), py::arg("threads"),
        py::arg("isa") = "", py::call_guard<py::gil_scoped_release>(),
        R"(The backward of gru_forward, which gave y and reserve; shapes in csrc/cpu/gru.hpp.

dx: (address, row stride, frame stride), address 0: not wanted. gradients: as the layer's weights. Raises as gru_forward.
)");
  m.def(
      "info_nce", &info_nce, py::arg("batch"), py::arg("features"), py::arg("keys"), py::arg("q"), py::arg("k"),
      py::arg("queue"), py::arg("temperature"), py::arg("loss"), py::arg("dq"), py::arg("pointer") = 0,
      py::arg("entering") = 0, py::arg("num_entering") = 0, py::arg("threads") = 1, py::arg("isa") = "",
      py::call_guard<py::gil_scoped_release>(),
      R"(InfoNCE and its gradient by q; shapes in csrc/cpu/infonce.hpp, all float32. With pointer (int64) keys enter then.

Raises:
    ValueError: a size or the temperature is out of range, or there is no such isa here.
)");
  m.def("ema_update", &ema_update, py::arg("size"), py::arg("keys"), py::arg("queries"), py::arg("boundary"),
        py::arg("momentum_head"), py::arg("momentum_tail"), py::arg("threads") = 1, py::arg("isa") = "",
        py::call_guard<py::gil_scoped_release>(),
        "The momentum update of flat float32 buffers; see csrc/cpu/step.hpp. ValueError: a size is out of range.");
  m.def("parse_skeleton", &parse_skeleton, py::arg("text"),
        R"(A .skeleton file: (frames, [(id, frames int64 [T], joints float32 [T, 25, 3])]), arrays as bytes.

Raises:
    ValueError: "line N: what is wrong there"; see csrc/cpu/skeleton.hpp.
)");
  m.def("flat_step", &flat_step, py::arg("size"), py::arg("parameters"), py::arg("gradients"), py::arg("first"),
        py::arg("second"), py::arg("keys"), py::arg("rates"), py::arg("nesterov"), py::arg("weight_decay"),
        py::arg("beta2"), py::arg("eps"), py::arg("max_norm"), py::arg("boundary"), py::arg("momentum_head"),
        py::arg("momentum_tail"), py::arg("threads") = 1, py::arg("isa") = "", py::call_guard<py::gil_scoped_release>(),
        "An optimizer step on flat float32 buffers; second and keys may be 0; see csrc/cpu/step.hpp. Raises as "
        "ema_update.");
  m.def("linear_epoch", &linear_epoch, py::arg("clips"), py::arg("features"), py::arg("classes"), py::arg("x"),
        py::arg("labels"), py::arg("order"), py::arg("count"), py::arg("batch"), py::arg("weight"), py::arg("bias"),
        py::arg("weight_momentum"), py::arg("bias_momentum"), py::arg("rate"), py::arg("momentum"), py::arg("isa") = "",
        py::call_guard<py::gil_scoped_release>(),
        "An epoch of softmax regression; see csrc/cpu/linear.hpp. ValueError: a size, a label or a clip is out of "
        "range.");
}
