#include "machine.hpp"

namespace crrl::machine {

std::vector<std::string> targets() { return {"this processor"}; }

std::string toolkit() { return "none"; }

std::optional<std::string> problem() { return std::nullopt; }

}  // namespace crrl::machine
