// What the extension was built for, and whether there is a GPU.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace crrl::machine {

std::vector<std::string> targets();    // such as sm_90a, compute_121
std::string toolkit();                 // the version of the CUDA toolkit
std::optional<std::string> problem();  // why no GPU can be used

}  // namespace crrl::machine
