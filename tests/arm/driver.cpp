// csrc/cpu as a process: calls come by the standard input and results go by the standard output, so that the kernels of
// another processor run under emulation without a Python there. tests/arm/emulation.py is the other end.
//
// Whole numbers are int64. A text is its size and its bytes, an array likewise (-1: none). A call is the operator's
// name, the instruction set, the count of numbers and the numbers (double), the count of arrays and the arrays; the
// answer is what went wrong (empty: nothing), the count of arrays and the arrays, with what was written to them.
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "gru.hpp"
#include "infonce.hpp"
#include "linear.hpp"
#include "parallel.hpp"
#include "skeleton.hpp"
#include "step.hpp"

namespace {

using Bytes = std::vector<char>;

void read_all(void* to, size_t bytes) {
  if (bytes > 0 && std::fread(to, 1, bytes, stdin) != bytes) throw std::runtime_error("the input ends within a call");
}

int64_t read_number() {
  int64_t value;
  read_all(&value, sizeof(value));
  return value;
}

std::string read_text() {
  std::string text(static_cast<size_t>(read_number()), ' ');
  read_all(text.data(), text.size());
  return text;
}

void write(const void* from, int64_t bytes) {
  std::fwrite(&bytes, sizeof(bytes), 1, stdout);
  if (bytes > 0) std::fwrite(from, 1, static_cast<size_t>(bytes), stdout);
}

struct Call {
  std::string isa;
  std::vector<double> numbers;
  std::vector<Bytes> arrays;
  std::vector<bool> given;
  size_t next_number = 0, next_array = 0;

  const char* set() const { return isa.empty() ? nullptr : isa.c_str(); }
  double real() { return numbers.at(next_number++); }
  int64_t whole() { return static_cast<int64_t>(real()); }
  template <typename T>
  T* array() {
    const size_t at = next_array++;
    return given.at(at) ? reinterpret_cast<T*>(arrays.at(at).data()) : nullptr;
  }
  template <typename T>
  crrl::Frames<T> frames() {
    T* const data = array<T>();
    const int64_t row = whole();
    return {data, row, whole()};
  }

  // One more array for the answer.
  void keep(const void* from, size_t bytes) {
    const char* const first = static_cast<const char*>(from);
    arrays.emplace_back(first, first + bytes);
    given.push_back(true);
  }
  void keep(int64_t value) { keep(&value, sizeof(value)); }
  template <typename T>
  void keep(const std::vector<T>& values) {
    keep(values.data(), values.size() * sizeof(T));
  }
};

crrl::GruLayer read_layer(Call& call) {
  crrl::GruLayer layer{};
  for (int64_t* size : {&layer.batch, &layer.steps, &layer.input, &layer.hidden, &layer.directions})
    *size = call.whole();
  layer.reverse = call.whole() != 0;
  layer.repeated = call.whole() != 0;
  layer.x = call.frames<const void>();
  layer.lengths = call.array<int64_t>();
  layer.h0 = call.array<void>();
  for (int64_t d = 0; d < layer.directions; ++d) {
    for (const void** weight : {&layer.w_ih[d], &layer.w_hh[d], &layer.b_ih[d], &layer.b_hh[d]}) {
      *weight = call.array<void>();
    }
  }
  return layer;
}

void gru_forward(Call& call) {
  crrl::GruForward params{};
  params.layer = read_layer(call);
  params.y = call.frames<void>();
  params.h_n = call.array<void>();
  params.reserve = call.array<void>();
  crrl::gru_forward(params, false, static_cast<int>(call.whole()), call.set());
}

void gru_backward(Call& call) {
  crrl::GruBackward params{};
  params.layer = read_layer(call);
  params.reserve = call.array<void>();
  params.dy = call.frames<const void>();
  params.dh_n = call.array<void>();
  params.dx = call.frames<void>();
  params.dh0 = call.array<void>();
  for (int64_t d = 0; d < params.layer.directions; ++d) {
    for (void** to : {&params.dw_ih[d], &params.dw_hh[d], &params.db_ih[d], &params.db_hh[d]}) *to = call.array<void>();
  }
  crrl::gru_backward(params, false, static_cast<int>(call.whole()), call.set());
}

void gru_reserve_size(Call& call) {
  const int64_t batch = call.whole(), steps = call.whole(), hidden = call.whole();
  call.keep(crrl::gru_reserve_size(batch, steps, hidden, call.whole()));
}

void info_nce(Call& call) {
  crrl::InfoNce params{};
  params.batch = call.whole(), params.features = call.whole(), params.keys = call.whole();
  params.q = call.array<float>(), params.k = call.array<float>();
  float* const queue = call.array<float>();
  params.queue = queue;
  params.temperature = call.real();
  params.loss = call.array<float>(), params.dq = call.array<float>();
  int64_t* const pointer = call.array<int64_t>();
  crrl::info_nce(params, static_cast<int>(call.whole()), call.set());
  if (pointer != nullptr) crrl::enqueue(queue, params.keys, params.features, pointer, params.k, params.batch);
}

crrl::EmaUpdate read_ema(Call& call, float* keys, const float* queries) {
  crrl::EmaUpdate ema{call.whole(), keys, queries, 0, 0, 0};
  ema.boundary = call.whole(), ema.momentum_head = call.real(), ema.momentum_tail = call.real();
  return ema;
}

void ema_update(Call& call) {
  float* const keys = call.array<float>();
  const crrl::EmaUpdate ema = read_ema(call, keys, call.array<float>());
  crrl::ema_update(ema, static_cast<int>(call.whole()), call.set());
}

void flat_step(Call& call) {
  crrl::FlatStep params{};
  params.parameters = call.array<float>(), params.gradients = call.array<float>();
  params.first = call.array<float>(), params.second = call.array<float>();
  float* const keys = call.array<float>();
  params.rates = call.array<float>();
  params.nesterov = call.whole() != 0;
  params.weight_decay = call.real(), params.beta2 = call.real(), params.eps = call.real();
  params.max_norm = call.real();
  params.ema = read_ema(call, keys, nullptr);
  params.size = params.ema.size;
  crrl::flat_step(params, static_cast<int>(call.whole()), call.set());
}

void linear_epoch(Call& call) {
  crrl::LinearEpoch params{};
  for (int64_t* size : {&params.clips, &params.features, &params.classes, &params.count, &params.batch}) {
    *size = call.whole();
  }
  params.x = call.array<float>(), params.labels = call.array<int64_t>(), params.order = call.array<int64_t>();
  for (float** to : {&params.weight, &params.bias, &params.weight_momentum, &params.bias_momentum}) {
    *to = call.array<float>();
  }
  params.rate = call.real(), params.momentum = call.real();
  crrl::linear_epoch(params, call.set());
}

// The text's place is taken by what was read: counts of frames, then of each body its number, frames and joints.
void parse_skeleton(Call& call) {
  const Bytes text = call.arrays.at(0);
  const crrl::Skeleton skeleton = crrl::parse_skeleton(std::string_view(text.data(), text.size()));
  call.arrays.clear(), call.given.clear();
  call.keep(skeleton.frames);
  for (const crrl::SkeletonBody& body : skeleton.bodies) {
    call.keep(body.id);
    call.keep(body.frames);
    call.keep(body.joints);
  }
}

// The best instruction set, and who runs the threads.
void about(Call& call) {
  for (const std::string& text : {std::string(crrl::gru_isa(false)), std::string(crrl::thread_runtime())}) {
    call.keep(text.data(), text.size());
  }
}

void serve(const std::string& name) {
  static const std::map<std::string, std::function<void(Call&)>> operators = {
      {"about", about},         {"gru_forward", gru_forward},   {"gru_backward", gru_backward},
      {"info_nce", info_nce},   {"ema_update", ema_update},     {"gru_reserve_size", gru_reserve_size},
      {"flat_step", flat_step}, {"linear_epoch", linear_epoch}, {"parse_skeleton", parse_skeleton}};
  Call call;
  call.isa = read_text();
  call.numbers.resize(static_cast<size_t>(read_number()));
  read_all(call.numbers.data(), call.numbers.size() * sizeof(double));
  call.arrays.resize(static_cast<size_t>(read_number()));
  for (Bytes& array : call.arrays) {
    const int64_t bytes = read_number();
    call.given.push_back(bytes >= 0);
    array.resize(bytes >= 0 ? static_cast<size_t>(bytes) : 0);
    read_all(array.data(), array.size());
  }
  std::string problem;
  try {
    operators.at(name)(call);
  } catch (const std::exception& error) {
    problem = error.what();
  }
  write(problem.data(), static_cast<int64_t>(problem.size()));
  const int64_t count = static_cast<int64_t>(call.arrays.size());
  std::fwrite(&count, sizeof(count), 1, stdout);
  for (size_t i = 0; i < call.arrays.size(); ++i) {
    write(call.arrays[i].data(), call.given[i] ? static_cast<int64_t>(call.arrays[i].size()) : -1);
  }
  std::fflush(stdout);
}

}  // namespace

int main() {
  for (;;) {
    const int first = std::fgetc(stdin);
    if (first == EOF) return 0;
    std::ungetc(first, stdin);
    serve(read_text());
  }
}
