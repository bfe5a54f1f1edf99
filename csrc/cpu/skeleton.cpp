#include "skeleton.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <system_error>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace crrl {
namespace {

constexpr int kJoints = 25;
constexpr int kBodyFields = 10;
constexpr int kJointFields = 12;
constexpr int kCoordinates = 3;  // the first fields of a joint; the others only have to be numbers
constexpr size_t kShown = 24;    // characters of a file that a message repeats
constexpr size_t kCountDigits = 9;
constexpr size_t kIdDigits = 18;
constexpr size_t kMostBodies = 1000;  // of a whole file: each is sought among those before

// Powers of ten that a double holds exactly.
constexpr double kTens[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                            1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

inline bool is_digit(char c) { return static_cast<unsigned char>(c - '0') < 10; }

// Separates the fields of a line. A carriage return does not: one changed bit turns a minus sign into it.
inline bool is_space(char c) { return c == ' ' || c == '\t'; }

inline bool ends_text(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

inline const char* skip_space(const char* at, const char* end) {
  while (at < end && is_space(*at)) ++at;
  return at;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  return text;
}

std::vector<std::string_view> tokens(std::string_view line) {
  std::vector<std::string_view> found;
  const char* const end = line.data() + line.size();
  for (const char* at = skip_space(line.data(), end); at < end; at = skip_space(at, end)) {
    const char* const start = at;
    while (at < end && !is_space(*at)) ++at;
    found.emplace_back(start, at - start);
  }
  return found;
}

// What a message quotes of a file: its first characters, with '?' for those that cannot be printed.
std::string shown(std::string_view text) {
  std::string result(text.substr(0, kShown));
  std::replace_if(result.begin(), result.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return result;
}

bool is_whole(std::string_view token, size_t digits) {
  return !token.empty() && token.size() <= digits && std::all_of(token.begin(), token.end(), is_digit);
}

int64_t whole(std::string_view digits) {
  int64_t value = 0;
  for (char c : digits) value = 10 * value + (c - '0');
  return value;
}

inline const char* skip_digits(const char* at, const char* end) {
  while (at < end && is_digit(*at)) ++at;
  return at;
}

// The end of -?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?, or null.
inline const char* end_of_number(const char* at, const char* const end) {
  at += at < end && *at == '-';
  const char* const start = at;
  at = skip_digits(at, end);
  bool some = at > start;
  if (at < end && *at == '.') {
    const char* const point = ++at;
    at = skip_digits(at, end);
    some = some || at > point;
  }
  if (!some) return nullptr;
  if (at < end && (*at == 'e' || *at == 'E')) {
    ++at;
    at += at < end && (*at == '-' || *at == '+');
    const char* const power = at;
    at = skip_digits(at, end);
    if (at == power) return nullptr;
  }
  return at;
}

// The same as end_of_number for nearly all that files hold, -?\d*\.?\d* of up to 15 characters with white space behind
// it, but without a branch for each character, as a processor predicts too few of these.
inline const char* end_of_plain_number(const char* at, const char* const end) {
#ifdef __SSE2__
  if (end - at >= 16) {
    const __m128i text = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    const auto mask = [](__m128i bytes) { return static_cast<uint32_t>(_mm_movemask_epi8(bytes)); };
    const uint32_t stops =
        mask(_mm_cmplt_epi8(text, _mm_set1_epi8('!')));  // white space, and what a number cannot hold
    const uint32_t token = (stops & -stops) - 1;         // the bits below the first stop
    const __m128i from_0 = _mm_cmpgt_epi8(text, _mm_set1_epi8('0' - 1)),
                  over_9 = _mm_cmpgt_epi8(text, _mm_set1_epi8('9'));
    const uint32_t digits = mask(_mm_andnot_si128(over_9, from_0)) & token;
    const uint32_t points = mask(_mm_cmpeq_epi8(text, _mm_set1_epi8('.'))) & token;
    const uint32_t minus = *at == '-';
    const bool plain = (digits | points | minus) == token && digits != 0 && (points & (points - 1)) == 0;
    if (stops != 0 && plain) return at + __builtin_ctz(stops);
  }
#endif
  return end_of_number(at, end);
}

// A number as it is written: digits * 10^exponent.
struct Decimal {
  bool negative;
  uint64_t digits;   // of at most 19 places; of more its low bits
  int64_t places;    // how many were written
  int64_t exponent;  // explicit one less the places behind the point
};

// Parses [at, end), which is a number.
inline Decimal decimal(const char* at, const char* const end) {
  Decimal number{*at == '-', 0, 0, 0};
  at += number.negative;
  const char* point = nullptr;
  for (; at < end && (is_digit(*at) || *at == '.'); ++at) {
    if (*at == '.') {
      point = at;
    } else {
      number.digits = 10 * number.digits + static_cast<uint64_t>(*at - '0');
      ++number.places;
    }
  }
  if (point != nullptr) number.exponent = point + 1 - at;
  if (at == end) return number;
  const bool minus = *++at == '-';
  at += minus || *at == '+';
  constexpr int64_t kHuge = int64_t{1} << 50;
  int64_t power = 0;
  for (; at < end; ++at) power = std::min(10 * power + (*at - '0'), kHuge);
  number.exponent += minus ? -power : power;
  return number;
}

// Correctly rounded even where the product of two exact doubles is not; infinite beyond a double's range.
double value_by_library(const Decimal& number, const char* start, const char* end) {
#ifdef __cpp_lib_to_chars
  double value = 0;
  if (std::from_chars(start, end, value).ec != std::errc::result_out_of_range) return value;
  int64_t zeros = 0;  // before the first other digit
  for (const char* at = start + number.negative; at < end && (*at == '0' || *at == '.'); ++at) zeros += *at == '0';
  const double size = number.places - zeros + number.exponent > 0 ? std::numeric_limits<double>::infinity() : 0.0;
  return number.negative ? -size : size;
#else
  return std::strtod(std::string(start, end).c_str(), nullptr);
#endif
}

inline double value_of(const char* start, const char* end) {
  const Decimal number = decimal(start, end);
  const bool exact = number.places <= 19 && number.digits <= (uint64_t{1} << 53) && std::abs(number.exponent) <= 22;
  if (!exact) return value_by_library(number, start, end);
  const double digits = static_cast<double>(number.digits), ten = kTens[std::abs(number.exponent)];
  const double value = number.exponent < 0 ? digits / ten : digits * ten;
  return number.negative ? -value : value;
}

// -?(inf|infinity|nan) in upper or lower case, which sensors write for unknown values.
bool is_unknown(std::string_view token) {
  if (!token.empty() && token.front() == '-') token.remove_prefix(1);
  std::string word(token.substr(0, 9));
  std::transform(word.begin(), word.end(), word.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
  return word == "inf" || word == "infinity" || word == "nan";
}

bool is_number(std::string_view token) {
  const char* const end = token.data() + token.size();
  return end_of_number(token.data(), end) == end || is_unknown(token);
}

inline bool fits_float(double value) { return std::abs(value) <= std::numeric_limits<float>::max(); }

// Reads one line of a joint in a single pass; false if anything is wrong.
bool read_joint(std::string_view line, float* joint) {
  const char* at = line.data();
  const char* const end = at + line.size();
  for (int field = 0; field < kJointFields; ++field) {
    at = skip_space(at, end);
    const char* const stop = end_of_plain_number(at, end);
    if (stop == nullptr || (stop < end && !is_space(*stop))) return false;
    if (field < kCoordinates) {
      const double value = value_of(at, stop);
      if (!fits_float(value)) return false;
      joint[field] = static_cast<float>(value);
    }
    at = stop;
  }
  return skip_space(at, end) == end;
}

class Parser {
 public:
  explicit Parser(std::string_view text) {
    while (!text.empty() && ends_text(text.back())) text.remove_suffix(1);
    at_ = text.data();
    end_ = at_ + text.size();
    done_ = text.empty();
  }

  Skeleton parse() {
    const int64_t frames = count("the number of frames");
    for (int64_t frame = 0; frame < frames; ++frame) {
      const int64_t bodies = count("the number of bodies");
      for (int64_t body = 0; body < bodies; ++body) read_body(frame);
    }
    if (!done_) {
      next_line("");
      fail("the " + std::to_string(frames) + " frames announced are over, but text follows");
    }
    return {frames, std::move(bodies_)};
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw std::invalid_argument("line " + std::to_string(line_) + ": " + what);
  }

  std::string_view next_line(const char* what) {
    ++line_;
    if (done_) fail(std::string("the file ends where ") + what + " should stand");
    const auto* newline = static_cast<const char*>(std::memchr(at_, '\n', end_ - at_));
    std::string_view line(at_, (newline ? newline : end_) - at_);
    while (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    done_ = newline == nullptr;
    at_ = newline ? newline + 1 : end_;
    return line;
  }

  int64_t count(const char* what) {
    const std::string_view line = trimmed(next_line(what));
    if (!is_whole(line, kCountDigits)) fail(std::string("expected ") + what + ", found '" + shown(line) + "'");
    return whole(line);
  }

  void read_body(int64_t frame) {
    SkeletonBody& body = seen(body_id(), frame);
    if (const int64_t joints = count("the number of joints"); joints != kJoints) {
      fail("expected 25 joints, found " + std::to_string(joints));
    }
    const size_t start = body.joints.size();
    body.joints.resize(start + kJoints * 3);
    for (int joint = 0; joint < kJoints; ++joint) {
      const std::string_view line = next_line("a joint");
      if (!read_joint(line, &body.joints[start + 3 * joint])) read_joint_slowly(line, &body.joints[start + 3 * joint]);
    }
  }

  int64_t body_id() {
    const auto fields = tokens(next_line("a body"));
    check_fields(fields, kBodyFields, "a body");
    if (!is_whole(fields[0], kIdDigits)) fail("expected the number of a body, found '" + shown(fields[0]) + "'");
    for (const std::string_view field : fields) check_number(field);
    return whole(fields[0]);
  }

  void check_fields(const std::vector<std::string_view>& fields, size_t expected, const char* what) const {
    if (fields.size() == expected) return;
    fail("expected the " + std::to_string(expected) + " numbers of " + what + ", found " +
         std::to_string(fields.size()));
  }

  void check_number(std::string_view field) const {
    if (!is_number(field)) fail("'" + shown(field) + "' is no number");
  }

  SkeletonBody& seen(int64_t id, int64_t frame) {
    auto body = std::find_if(bodies_.begin(), bodies_.end(), [id](const SkeletonBody& b) { return b.id == id; });
    if (body == bodies_.end()) {
      if (bodies_.size() == kMostBodies) fail("more than " + std::to_string(kMostBodies) + " bodies");
      body = bodies_.insert(body, SkeletonBody{id, {}, {}});
    }
    if (!body->frames.empty() && body->frames.back() == frame) {
      fail("body " + std::to_string(id) + " stands twice in one frame");
    }
    body->frames.push_back(frame);
    return *body;
  }

  // A line that is wrong, for which this reports how, or that has inf or nan besides the coordinates.
  void read_joint_slowly(std::string_view line, float* joint) const {
    const auto fields = tokens(line);
    check_fields(fields, kJointFields, "a joint");
    for (const std::string_view field : fields) check_number(field);
    for (int i = 0; i < kCoordinates; ++i) {
      const double value =
          is_unknown(fields[i]) ? std::nan("") : value_of(fields[i].data(), fields[i].data() + fields[i].size());
      if (!fits_float(value)) fail("coordinate '" + shown(fields[i]) + "' is not finite");
      joint[i] = static_cast<float>(value);
    }
  }

  const char* at_;
  const char* end_;
  bool done_;
  int64_t line_ = 0;
  std::vector<SkeletonBody> bodies_;
};

}  // namespace

Skeleton parse_skeleton(std::string_view text) { return Parser(text).parse(); }

}  // namespace crrl
