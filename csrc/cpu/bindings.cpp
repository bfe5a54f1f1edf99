// crrl._cpu. Operators take tensors and return nothing: the caller also passes the tensors that they write. Only
// `Given` reads an address, after it has checked type, dtype, device, shape, layout and size of the memory: whatever an
// object holds, no kernel touches memory that is not a tensor's. The other functions are about the machine and the
// process, sizes of buffers, and .skeleton text.
#ifdef __linux__
#include <malloc.h>
#endif
#include <pybind11/gil_safe_call_once.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "gather.hpp"
#include "gru.hpp"
#include "infonce.hpp"
#include "linear.hpp"
#include "parallel.hpp"
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

enum Kind { kFloat32, kBfloat16, kInt64 };
constexpr const char* kKindNames[] = {"float32", "bfloat16", "int64"};
constexpr int64_t kKindBytes[] = {4, 2, 8};

py::object own(PyObject* made) {
  if (made == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(made);
}

// torch's Python module: the classes and dtypes that tensors are compared with, and the functions that query them.
// These are torch's own, because an attribute of an object or a method of a subclass may answer anything.
struct Torch {
  const py::module_ module = py::module_::import("torch");
  const py::object tensor = module.attr("Tensor"), parameter = module.attr("nn").attr("Parameter");
  const py::object kinds[3] = {module.attr(kKindNames[0]), module.attr(kKindNames[1]), module.attr(kKindNames[2])};
  const py::object size = tensor.attr("size"), stride = tensor.attr("stride"), data_ptr = tensor.attr("data_ptr");
  const py::object dtype = tensor.attr("dtype").attr("__get__"), is_cpu = tensor.attr("is_cpu").attr("__get__");
  const py::object offset = tensor.attr("storage_offset"), storage = tensor.attr("untyped_storage");
  const py::object bytes = module.attr("UntypedStorage").attr("nbytes");

  static const Torch& get() {
    PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<Torch> storage;
    return storage.call_once_and_store_result([] { return Torch(); }).get_stored();
  }

  // `object`, which must be a tensor, as one of class Tensor or Parameter.
  py::object plain(const char* name, py::handle object) const {
    PyTypeObject* const type = Py_TYPE(object.ptr());
    if (is(type, tensor) || is(type, parameter)) return py::reinterpret_borrow<py::object>(object);
    if (!py::isinstance(object, tensor)) {
      throw py::type_error(std::string(name) + " must be a tensor, not " + type->tp_name);
    }
    const py::object plain = tensor.attr("as_subclass")(object, tensor);
    if (!is(Py_TYPE(plain.ptr()), tensor)) {
      throw py::type_error(std::string(name) + " must be a tensor in memory, not " + type->tp_name);
    }
    return plain;
  }

 private:
  static bool is(PyTypeObject* type, const py::object& other) {
    return reinterpret_cast<PyObject*>(type) == other.ptr();
  }
};

py::object call(const py::object& function, const py::object& argument) {
  return own(PyObject_CallOneArg(function.ptr(), argument.ptr()));
}

int64_t number(py::handle value) {
  const int64_t result = PyLong_AsLongLong(value.ptr());
  if (result == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return result;
}

using Shape = std::vector<int64_t>;

Shape numbers(const py::object& tuple) {
  Shape values;
  for (const py::handle item : tuple.cast<py::tuple>()) values.push_back(number(item));
  return values;
}

std::string listed(const Shape& shape) {
  std::string text;
  for (const int64_t size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "[" + text + "]";
}

// A tensor from Python. `whole` and `frames` give its memory, after they have checked that it fits its argument. Throws
// py::type_error for an object that is not a tensor, std::invalid_argument for a tensor that does not fit.
class Given {
 public:
  Given(const char* name, py::handle object)
      : name_(name),
        torch_(Torch::get()),
        tensor_(torch_.plain(name, object)),
        shape_(numbers(call(torch_.size, tensor_))),
        dtype_(call(torch_.dtype, tensor_)) {}

  const Shape& shape() const { return shape_; }
  bool is(Kind kind) const { return dtype_.is(torch_.kinds[kind]); }

  // The size in dimension `dim` of a tensor that must have `rank` dimensions.
  int64_t size(int64_t dim, size_t rank) const {
    if (shape_.size() == rank) return shape_[dim];
    throw std::invalid_argument(name_ + " must have " + std::to_string(rank) + " dimensions, not the shape " +
                                listed(shape_));
  }

  // The memory of a contiguous tensor of this kind and shape.
  template <typename T>
  T* whole(Kind kind, const Shape& shape) const {
    const Shape strides = numbers(call(torch_.stride, tensor_));
    require(kind, shape, is_dense(strides), "contiguous ");
    return static_cast<T*>(memory(kind, strides));
  }

  // The memory of [B, T, C] or [T, B, C] of this kind and shape, in which the channels of a frame are adjacent.
  template <typename T>
  crrl::Frames<T> frames(Kind kind, const Shape& shape, bool batch_first) const {
    const Shape strides = numbers(call(torch_.stride, tensor_));
    require(kind, shape, shape_.size() == 3 && (strides[2] == 1 || shape_[2] == 1), "");
    const int row = batch_first ? 0 : 1, step = 1 - row;
    return {memory(kind, strides), strides[row], shape_[step] > 1 ? strides[step] : 0};
  }

 private:
  bool is_dense(const Shape& strides) const {
    for (const int64_t size : shape_) {
      if (size == 0) return true;
    }
    int64_t dense = 1;
    for (size_t dim = shape_.size(); dim-- > 0; dense *= shape_[dim]) {
      if (shape_[dim] != 1 && strides[dim] != dense) return false;
    }
    return true;
  }

  void require(Kind kind, const Shape& shape, bool laid_out, const char* layout) const {
    if (is(kind) && call(torch_.is_cpu, tensor_).ptr() == Py_True && shape_ == shape && laid_out) return;
    throw std::invalid_argument(name_ + " must be " + layout + kKindNames[kind] + " " + listed(shape) +
                                " on the CPU, not " + std::string(py::str(dtype_)) + " " + listed(shape_) +
                                (laid_out ? "" : ", not contiguous,") + " on " +
                                std::string(py::str(tensor_.attr("device"))));
  }

  // The address; null: no elements. Checks that the storage, which can be resized, is large enough for the tensor.
  void* memory(Kind kind, const Shape& strides) const {
    int64_t end = 1 + number(call(torch_.offset, tensor_));
    for (size_t dim = 0; dim < shape_.size(); ++dim) {
      if (shape_[dim] == 0) return nullptr;
      end += (shape_[dim] - 1) * strides[dim];
    }
    const int64_t bytes = number(call(torch_.bytes, call(torch_.storage, tensor_)));
    const int64_t address = number(call(torch_.data_ptr, tensor_));
    if (address != 0 && end * kKindBytes[kind] <= bytes) {
      return reinterpret_cast<void*>(static_cast<std::intptr_t>(address));
    }
    throw std::invalid_argument("the memory of " + name_ + " " + listed(shape_) + " has been freed or cut to " +
                                std::to_string(bytes) + " bytes");
  }

  const std::string name_;
  const Torch& torch_;
  const py::object tensor_;
  const Shape shape_;
  const py::object dtype_;
};

// The memory of `whole`; null for None.
template <typename T>
T* whole_or_null(const char* name, py::handle tensor, Kind kind, const Shape& shape) {
  return tensor.is_none() ? nullptr : Given(name, tensor).whole<T>(kind, shape);
}

const char* or_null(const std::string& isa) { return isa.empty() ? nullptr : isa.c_str(); }

void ragged_gather(py::handle frames, py::handle offsets, py::handle index, py::handle x, py::handle v,
                   py::handle lengths) {
  const Given from("frames", frames), clips("offsets", offsets), rows("index", index), to("x", x);
  crrl::RaggedGatherParams params{};
  params.num_frames = from.size(0, 2);
  params.num_clips = clips.size(0, 1) - 1;
  params.batch = rows.size(0, 1);
  params.max_frames = to.size(1, 3);
  params.channels = from.size(1, 2);
  const Shape padded{params.batch, params.max_frames, params.channels};
  params.frames = from.whole<const float>(kFloat32, from.shape());
  params.offsets = clips.whole<const int64_t>(kInt64, clips.shape());
  params.index = rows.whole<const int64_t>(kInt64, rows.shape());
  params.x = to.whole<float>(kFloat32, padded);
  params.v = whole_or_null<float>("v", v, kFloat32, padded);
  params.lengths = Given("lengths", lengths).whole<int64_t>(kInt64, {params.batch});
  const py::gil_scoped_release release;
  crrl::ragged_gather(params);
}

// For each direction: w_ih, w_hh and, if the layer has biases, b_ih and b_hh.
using Weights = std::vector<py::object>;
constexpr const char* kWeights[2][4] = {{"w_ih", "w_hh", "b_ih", "b_hh"},
                                        {"w_ih_reverse", "w_hh_reverse", "b_ih_reverse", "b_hh_reverse"}};
constexpr const char* kGradients[2][4] = {{"dw_ih", "dw_hh", "db_ih", "db_hh"},
                                          {"dw_ih_reverse", "dw_hh_reverse", "db_ih_reverse", "db_hh_reverse"}};

// The arguments that the forward and the backward pass of a layer share. `memory` keeps the weights alive.
struct Layer {
  crrl::GruLayer sizes{};
  Kind kind;
  bool batch_first;
  Weights memory;

  Layer(py::handle x, py::handle lengths, py::handle h0, const Weights& weights, int64_t directions, int64_t frames,
        bool batch_first, bool reverse)
      : batch_first(batch_first), memory(weights) {
    const Given input("x", x);
    kind = input.is(kBfloat16) ? kBfloat16 : kFloat32;
    const int64_t given = input.size(batch_first ? 1 : 0, 3), per_direction = check_count(directions);
    sizes.batch = input.size(batch_first ? 0 : 1, 3);
    sizes.steps = frames;
    sizes.input = input.size(2, 3);
    sizes.hidden = Given("w_hh", memory[1]).size(1, 2);
    sizes.directions = directions;
    sizes.reverse = reverse;
    if (given != frames && given != 1) {
      throw std::invalid_argument("x must have " + std::to_string(frames) + " frames, or one that is repeated, not " +
                                  std::to_string(given));
    }
    sizes.repeated = given != frames;
    sizes.x = input.frames<const void>(kind, input.shape(), batch_first);
    sizes.lengths = whole_or_null<const int64_t>("lengths", lengths, kInt64, {sizes.batch});
    sizes.h0 = whole_or_null<const void>("h0", h0, kind, state());
    take_weights(per_direction);
  }

  // Only the weights; the batch is one row of one frame.
  Layer(const Weights& weights, int64_t directions) : kind(kFloat32), batch_first(true), memory(weights) {
    const int64_t per_direction = check_count(directions);
    const Given w_ih("w_ih", memory[0]), w_hh("w_hh", memory[1]);
    kind = w_ih.is(kBfloat16) ? kBfloat16 : kFloat32;
    sizes.batch = sizes.steps = 1;
    sizes.input = w_ih.size(1, 2);
    sizes.hidden = w_hh.size(1, 2);
    sizes.directions = directions;
    take_weights(per_direction);
  }

  // Everything but the weights, which are packed.
  Layer(const crrl::GruWeights& weights, py::handle x, py::handle h0, bool batch_first, bool reverse)
      : kind(weights.bf16 ? kBfloat16 : kFloat32), batch_first(batch_first) {
    const Given input("x", x);
    sizes.batch = input.size(batch_first ? 0 : 1, 3);
    sizes.steps = input.size(batch_first ? 1 : 0, 3);
    sizes.input = weights.input;
    sizes.hidden = weights.hidden;
    sizes.directions = weights.directions;
    sizes.reverse = reverse;
    sizes.x = input.frames<const void>(kind, of_frames(sizes.input), batch_first);
    sizes.h0 = whole_or_null<const void>("h0", h0, kind, state());
  }

  Shape state() const { return {sizes.directions, sizes.batch, sizes.hidden}; }

  Shape of_frames(int64_t channels) const {
    if (batch_first) return {sizes.batch, sizes.steps, channels};
    return {sizes.steps, sizes.batch, channels};
  }

  template <typename T>
  crrl::Frames<T> output(const char* name, py::handle tensor) const {
    return Given(name, tensor).frames<T>(kind, of_frames(sizes.directions * sizes.hidden), batch_first);
  }

  template <typename T>
  T* reserve(py::handle tensor) const {
    const int64_t size = crrl::gru_reserve_size(sizes.batch, sizes.steps, sizes.hidden, sizes.directions);
    return whole_or_null<T>("reserve", tensor, kind, {size});
  }

  int64_t check_count(int64_t directions) const {
    const int64_t count = static_cast<int64_t>(memory.size());
    if ((directions == 1 || directions == 2) && (count == 2 * directions || count == 4 * directions)) {
      return count / directions;
    }
    throw std::invalid_argument("a GRU layer has one or two directions of 2 or 4 weights each, not " +
                                std::to_string(count) + " in " + std::to_string(directions));
  }

  void take_weights(int64_t per_direction) {
    for (int64_t d = 0; d < sizes.directions; ++d) {
      sizes.w_ih[d] = weight<const void>(memory, kWeights, per_direction, d, 0);
      sizes.w_hh[d] = weight<const void>(memory, kWeights, per_direction, d, 1);
      sizes.b_ih[d] = weight<const void>(memory, kWeights, per_direction, d, 2);
      sizes.b_hh[d] = weight<const void>(memory, kWeights, per_direction, d, 3);
    }
  }

  // A weight, or its gradient, of direction d; null for a bias of a layer that has none.
  template <typename T>
  T* weight(const Weights& of, const char* const (&names)[2][4], int64_t per_direction, int64_t d,
            int64_t which) const {
    if (which >= per_direction) return nullptr;
    const int64_t gates = 3 * sizes.hidden;
    const Shape shape = which == 0 ? Shape{gates, sizes.input} : which == 1 ? Shape{gates, sizes.hidden} : Shape{gates};
    return Given(names[d][which], of[d * per_direction + which]).whole<T>(kind, shape);
  }
};

void gru_forward(py::handle x, py::handle lengths, py::handle h0, const Weights& weights, py::handle y, py::handle h_n,
                 py::handle reserve, int64_t directions, int64_t frames, bool batch_first, bool reverse, int threads,
                 const std::string& isa) {
  const Layer layer(x, lengths, h0, weights, directions, frames, batch_first, reverse);
  crrl::GruForward params{};
  params.layer = layer.sizes;
  params.y = layer.output<void>("y", y);
  params.h_n = Given("h_n", h_n).whole<void>(layer.kind, layer.state());
  params.reserve = layer.reserve<void>(reserve);
  const py::gil_scoped_release release;
  crrl::gru_forward(params, layer.kind == kBfloat16, threads, or_null(isa));
}

std::unique_ptr<crrl::GruWeights> gru_weights(const Weights& weights, int64_t directions, const std::string& isa) {
  const Layer layer(weights, directions);
  return std::make_unique<crrl::GruWeights>(layer.sizes, layer.kind == kBfloat16, or_null(isa));
}

void gru_stream(const crrl::GruWeights& weights, py::handle x, py::handle h0, py::handle y, py::handle h_n,
                bool batch_first, bool reverse, int threads) {
  const Layer layer(weights, x, h0, batch_first, reverse);
  crrl::GruForward params{};
  params.layer = layer.sizes;
  params.y = layer.output<void>("y", y);
  params.h_n = Given("h_n", h_n).whole<void>(layer.kind, layer.state());
  const py::gil_scoped_release release;
  weights.forward(params, threads);
}

std::tuple<int64_t, int64_t, double> gru_crew(int64_t batch, int64_t frames, int64_t hidden, int64_t directions,
                                              bool bf16, int threads, const std::string& isa) {
  crrl::GruLayer layer{};
  layer.batch = batch, layer.steps = frames, layer.input = 1, layer.hidden = hidden, layer.directions = directions;
  const crrl::GruCrew crew = crrl::gru_crew(layer, bf16, threads, or_null(isa));
  return {crew.size, crew.threads, crew.nanoseconds / 1e3};
}

void gru_backward(py::handle x, py::handle lengths, py::handle h0, const Weights& weights, py::handle reserve,
                  py::handle dy, py::handle dh_n, py::handle dx, py::handle dh0, const Weights& gradients,
                  int64_t directions, int64_t frames, bool batch_first, bool reverse, int threads,
                  const std::string& isa) {
  const Layer layer(x, lengths, h0, weights, directions, frames, batch_first, reverse);
  if (gradients.size() != weights.size()) throw std::invalid_argument("as many gradients as weights are needed");
  crrl::GruBackward params{};
  params.layer = layer.sizes;
  params.reserve = layer.reserve<const void>(reserve);
  if (params.reserve == nullptr) throw std::invalid_argument("the backward pass needs what the forward pass kept");
  params.dy = layer.output<const void>("dy", dy);
  params.dh_n = Given("dh_n", dh_n).whole<const void>(layer.kind, layer.state());
  if (!dx.is_none()) {
    params.dx = Given("dx", dx).frames<void>(layer.kind, Given("x", x).shape(), batch_first);
  }
  params.dh0 = Given("dh0", dh0).whole<void>(layer.kind, layer.state());
  const int64_t per_direction = layer.check_count(directions);
  for (int64_t d = 0; d < directions; ++d) {
    params.dw_ih[d] = layer.weight<void>(gradients, kGradients, per_direction, d, 0);
    params.dw_hh[d] = layer.weight<void>(gradients, kGradients, per_direction, d, 1);
    params.db_ih[d] = layer.weight<void>(gradients, kGradients, per_direction, d, 2);
    params.db_hh[d] = layer.weight<void>(gradients, kGradients, per_direction, d, 3);
  }
  const py::gil_scoped_release release;
  crrl::gru_backward(params, layer.kind == kBfloat16, threads, or_null(isa));
}

void info_nce(py::handle q, py::handle k, py::handle queue, double temperature, py::handle loss, py::handle dq,
              py::handle pointer, int threads, const std::string& isa) {
  const Given queries("q", q), negatives("queue", queue);
  const int64_t batch = queries.size(0, 2), features = queries.size(1, 2), keys = negatives.size(0, 2);
  crrl::InfoNce params{};
  params.batch = batch;
  params.features = features;
  params.keys = keys;
  params.q = queries.whole<const float>(kFloat32, {batch, features});
  params.k = Given("k", k).whole<const float>(kFloat32, {batch, features});
  float* const ring = negatives.whole<float>(kFloat32, {keys, features});
  params.queue = ring;
  params.temperature = temperature;
  params.loss = Given("loss", loss).whole<float>(kFloat32, {});
  params.dq = Given("dq", dq).whole<float>(kFloat32, {batch, features});
  int64_t* const oldest = whole_or_null<int64_t>("pointer", pointer, kInt64, {});
  const py::gil_scoped_release release;
  crrl::info_nce(params, threads, or_null(isa));
  if (oldest != nullptr) crrl::enqueue(ring, keys, features, oldest, params.k, batch);
}

void ema_update(py::handle keys, py::handle queries, int64_t boundary, double momentum_head, double momentum_tail,
                int threads, const std::string& isa) {
  const Given following("keys", keys);
  const int64_t size = following.size(0, 1);
  const crrl::EmaUpdate params{size,
                               following.whole<float>(kFloat32, {size}),
                               Given("queries", queries).whole<const float>(kFloat32, {size}),
                               boundary,
                               momentum_head,
                               momentum_tail};
  const py::gil_scoped_release release;
  crrl::ema_update(params, threads, or_null(isa));
}

void flat_step(py::handle parameters, py::handle gradients, py::handle first, py::handle second, py::handle keys,
               py::handle rates, bool nesterov, double weight_decay, double beta2, double eps, double max_norm,
               int64_t boundary, double momentum_head, double momentum_tail, int threads, const std::string& isa) {
  const Given flat("parameters", parameters);
  crrl::FlatStep params{};
  params.size = flat.size(0, 1);
  params.parameters = flat.whole<float>(kFloat32, {params.size});
  params.gradients = Given("gradients", gradients).whole<const float>(kFloat32, {params.size});
  params.first = Given("first", first).whole<float>(kFloat32, {params.size});
  params.second = whole_or_null<float>("second", second, kFloat32, {params.size});
  params.rates = Given("rates", rates).whole<const float>(kFloat32, {4});
  params.nesterov = nesterov;
  params.weight_decay = weight_decay;
  params.beta2 = beta2;
  params.eps = eps;
  params.max_norm = max_norm;
  params.ema = {params.size,   whole_or_null<float>("keys", keys, kFloat32, {params.size}),
                nullptr,       boundary,
                momentum_head, momentum_tail};
  const py::gil_scoped_release release;
  crrl::flat_step(params, threads, or_null(isa));
}

void linear_epoch(py::handle features, py::handle labels, py::handle order, int64_t batch_size, py::handle weight,
                  py::handle bias, py::handle weight_momentum, py::handle bias_momentum, double rate, double momentum,
                  const std::string& isa) {
  const Given x("features", features), taken("order", order), biases("bias", bias);
  crrl::LinearEpoch params{};
  params.clips = x.size(0, 2);
  params.features = x.size(1, 2);
  params.classes = biases.size(0, 1);
  params.count = taken.size(0, 1);
  params.batch = batch_size;
  const Shape matrix{params.classes, params.features}, vector{params.classes};
  params.x = x.whole<const float>(kFloat32, x.shape());
  params.labels = Given("labels", labels).whole<const int64_t>(kInt64, {params.clips});
  params.order = taken.whole<const int64_t>(kInt64, taken.shape());
  params.weight = Given("weight", weight).whole<float>(kFloat32, matrix);
  params.bias = biases.whole<float>(kFloat32, vector);
  params.weight_momentum = Given("weight_momentum", weight_momentum).whole<float>(kFloat32, matrix);
  params.bias_momentum = Given("bias_momentum", bias_momentum).whole<float>(kFloat32, vector);
  params.rate = rate;
  params.momentum = momentum;
  const py::gil_scoped_release release;
  crrl::linear_epoch(params, or_null(isa));
}

// By default glibc returns large blocks to the system when they are freed, and the system must clear the pages of the
// next block: that costs several milliseconds of a training step.
void keep_memory() {
#ifdef M_MMAP_THRESHOLD
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
#endif
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
  m.doc() = "Native CPU operators. Tensors that do not fit raise ValueError, what is no tensor TypeError.";
  m.attr("abi") = 10;  // raised with every change of a signature below, so that a stale build is recognised
  m.attr("compiler") = kCompiler;
  m.def("ragged_gather", &ragged_gather, py::arg("frames"), py::arg("offsets"), py::arg("index"), py::arg("x"),
        py::arg("v"), py::arg("lengths"),
        R"(Gather clips into a zero-padded batch, with their velocities in the same pass.

Args (contiguous tensors on the CPU):
    frames: float32 [F, C], the clips end to end.
    offsets: int64 [N + 1], clip i is frames[offsets[i] : offsets[i + 1]].
    index: int64 [B], the clip of each row.
    x: float32 [B, T, C], written.
    v: float32 [B, T, C], written; None: no velocities.
    lengths: int64 [B], written.

Raises:
    IndexError: an index is not one of the clips.
    ValueError: a tensor does not fit, or a clip is empty, longer than T or not within the frames.
)");
  m.def("thread_runtime", &crrl::thread_runtime, "Who runs the threads: \"omp\", torch's runtime, or \"pool\", ours.");
  m.def("keep_memory", &keep_memory, "Have the C library keep what the process frees, where it is glibc.");
  m.def("gru_isa", &crrl::gru_isa, py::arg("bf16"), "The instruction set that the GRU kernels use here, or None.");
  m.def("gru_crew", &gru_crew, py::arg("batch"), py::arg("frames"), py::arg("hidden"), py::arg("directions"),
        py::arg("bf16"), py::arg("threads"), py::arg("isa") = "",
        R"(How gru_forward divides a layer among threads: (crew, threads, microseconds).

crew: the threads that take rows through time together, each computing some of the units; 1: each thread has its own
rows. threads: those of the call. microseconds: of the recurrence, by the model of gru_kernels.hpp.

Raises:
    ValueError: a size is out of range, or there is no such isa here.
)");
  m.attr("gru_tiles_from") = py::make_tuple(crrl::kTileRows, crrl::kTileFrames);
  m.def("gru_reserve_size", &crrl::gru_reserve_size, py::arg("batch"), py::arg("steps"), py::arg("hidden"),
        py::arg("directions"), "Elements of the memory between forward and backward.");
  m.def("gru_forward", &gru_forward, py::arg("x"), py::arg("lengths"), py::arg("h0"), py::arg("weights"), py::arg("y"),
        py::arg("h_n"), py::arg("reserve"), py::arg("directions"), py::arg("frames"), py::arg("batch_first"),
        py::arg("reverse"), py::arg("threads"), py::arg("isa") = "",
        R"(A GRU layer, all directions, all float32 or all bfloat16 on the CPU.

Args:
    x: [B, T, I] when batch_first, else [T, B, I], or one frame that is repeated; channels side by side.
    lengths: int64 [B], each in 1..T, or None. h0: [D, B, H] or None.
    weights: per direction w_ih [3H, I], w_hh [3H, H] and, unless there are none, b_ih [3H], b_hh [3H]; contiguous.
    y: as x but of D * H channels, written. h_n: [D, B, H], written.
    reserve: [gru_reserve_size], written; None where no backward follows.
    directions: D. frames: T. isa: forces an instruction set.

Raises:
    ValueError: a tensor, a size or a length does not fit, or there is no such isa here.
)");
  py::class_<crrl::GruWeights>(m, "GruWeights", py::module_local(), R"(The weights of a GRU layer, packed: a copy.

Args:
    weights, directions, isa: as gru_forward takes them.
)")
      .def(py::init(&gru_weights), py::arg("weights"), py::arg("directions"), py::arg("isa") = "");
  m.def("gru_stream", &gru_stream, py::arg("weights"), py::arg("x"), py::arg("h0"), py::arg("y"), py::arg("h_n"),
        py::arg("batch_first"), py::arg("reverse"), py::arg("threads"),
        "gru_forward with packed weights, for x with all its frames, without lengths and reserve; raises alike.");
  m.def("gru_backward", &gru_backward, py::arg("x"), py::arg("lengths"), py::arg("h0"), py::arg("weights"),
        py::arg("reserve"), py::arg("dy"), py::arg("dh_n"), py::arg("dx"), py::arg("dh0"), py::arg("gradients"),
        py::arg("directions"), py::arg("frames"), py::arg("batch_first"), py::arg("reverse"), py::arg("threads"),
        py::arg("isa") = "",
        R"(The backward of gru_forward, which gave reserve, and raises alike.

dy: as y there. dh_n: [D, B, H]. dx: as x, written; None: not wanted. dh0: [D, B, H], written, also where h0 is None.
gradients: as weights, written.
)");
  m.def("info_nce", &info_nce, py::arg("q"), py::arg("k"), py::arg("queue"), py::arg("temperature"), py::arg("loss"),
        py::arg("dq"), py::arg("pointer") = py::none(), py::arg("threads") = 1, py::arg("isa") = "",
        R"(InfoNCE and its gradient by q, float32, contiguous; see csrc/cpu/infonce.hpp.

q, k, dq: [B, D]. queue: [K, D]. loss: []. pointer: int64 []; unless it is None, k enters the queue then.

Raises:
    ValueError: a tensor, a size or the temperature does not fit, or there is no such isa here.
)");
  m.def("ema_update", &ema_update, py::arg("keys"), py::arg("queries"), py::arg("boundary"), py::arg("momentum_head"),
        py::arg("momentum_tail"), py::arg("threads") = 1, py::arg("isa") = "",
        "The momentum update of flat buffers, float32 [N]; see csrc/cpu/step.hpp. Raises as info_nce.");
  m.def("parse_skeleton", &parse_skeleton, py::arg("text"),
        R"(A .skeleton file: (frames, [(id, frames int64 [T], joints float32 [T, 25, 3])]), arrays as bytes.

Raises:
    ValueError: "line N: what is wrong there"; see csrc/cpu/skeleton.hpp.
)");
  m.def("flat_step", &flat_step, py::arg("parameters"), py::arg("gradients"), py::arg("first"), py::arg("second"),
        py::arg("keys"), py::arg("rates"), py::arg("nesterov"), py::arg("weight_decay"), py::arg("beta2"),
        py::arg("eps"), py::arg("max_norm"), py::arg("boundary"), py::arg("momentum_head"), py::arg("momentum_tail"),
        py::arg("threads") = 1, py::arg("isa") = "",
        "An optimizer step on flat buffers, float32 [N]; rates: [4]; second and keys may be None; see "
        "csrc/cpu/step.hpp. Raises as info_nce.");
  m.def("linear_epoch", &linear_epoch, py::arg("features"), py::arg("labels"), py::arg("order"), py::arg("batch_size"),
        py::arg("weight"), py::arg("bias"), py::arg("weight_momentum"), py::arg("bias_momentum"), py::arg("rate"),
        py::arg("momentum"), py::arg("isa") = "",
        "An epoch of softmax regression: features float32 [N, D], labels int64 [N], order int64 [count], weight and "
        "its momentum [C, D], bias and its momentum [C]; see csrc/cpu/linear.hpp. ValueError: a tensor, a size, a "
        "label or a clip does not fit.");
}
