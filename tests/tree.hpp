#pragma once
// A scratch directory with folders in it.
#include <filesystem>
#include <string>

#include "io/scratch.hpp"

namespace scratch {

struct Tree {
  std::string path;
  Tree() {
    Dir d;
    path = d.path + "-tree";
    std::filesystem::create_directory(path);
  }
  ~Tree() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  Tree(const Tree&) = delete;
  Tree& operator=(const Tree&) = delete;
  std::string operator/(const std::string& name) const { return path + "/" + name; }
};

}  // namespace scratch
