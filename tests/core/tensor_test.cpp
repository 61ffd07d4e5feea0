// Shapes, element types, storage, views, the type-erased form, and what bad arguments say.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <moraine/core/any_tensor.hpp>
#include <string>
#include <vector>

using namespace moraine;

namespace {
template <class F>
std::string message(F f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "nothing was thrown";
}
}  // namespace

TEST_CASE("values lie row by row and handles share them") {
  Tensor<float> a({2, 3}, {1, 2, 3, 4, 5, 6});
  CHECK(a.at({1, 2}) == 6);
  const Tensor<float> b = a;
  a.data()[0] = 9;
  CHECK(b.at({0, 0}) == 9);
  const Tensor<float> c = a.clone();
  a.data()[0] = 1;
  CHECK(c.at({0, 0}) == 9);
  CHECK(str(a.shape()) == "(2,3)");
  CHECK(Tensor<int>::scalar(4).item() == 4);
  CHECK(Tensor<int>::arange(3).values() == std::vector<int>{0, 1, 2});
}

TEST_CASE("strided views become contiguous in logical order") {
  const Tensor<int> a({2, 3}, {1, 2, 3, 4, 5, 6});
  const Tensor<int> t = a.view({3, 2}, {1, 3});
  CHECK_FALSE(t.contiguous_in_memory());
  CHECK(t.contiguous().values() == std::vector<int>{1, 4, 2, 5, 3, 6});
  CHECK(t.values() == std::vector<int>{1, 4, 2, 5, 3, 6});
  CHECK(t.at({2, 1}) == 6);
  CHECK(a.view({2, 2}, {3, 2}).values() == std::vector<int>{1, 3, 4, 6});
  CHECK(a.reshaped({6}).values() == a.values());
}

TEST_CASE("bad shapes and indices say what and how much") {
  CHECK(message([] { Tensor<float>({2, 2}, {1, 2, 3}); }) == "tensor: 3 values for shape (2,2)");
  CHECK(message([] { Tensor<float>::empty({-1}); }).find("(-1)") != std::string::npos);
  CHECK(message([] {
          Tensor<float>::empty({1 << 30, 1 << 30});
        }).find("too large") != std::string::npos);
  CHECK(message([] { Tensor<float>::zeros({2}).at({2}); }) == "at: index 2 on axis 0 of shape (2)");
  CHECK(message([] { Tensor<float>::zeros({2}).item(); }) == "item: needs one element; shape (2)");
  Shape nine;
  CHECK(message([&] {
          for (int i = 0; i < 9; ++i) nine.push(1);
        }) == "shape: more than 8 axes");
}

TEST_CASE("memory: live bytes, peak, and a limit that names its numbers") {
  const std::size_t before = cpu_device.live;
  {
    const auto t = Tensor<float>::empty({1000});
    CHECK(cpu_device.live == before + 4000);
    const auto view = t.reshaped({10, 100});
    CHECK(cpu_device.live == before + 4000);
  }
  CHECK(cpu_device.live == before);
  cpu_device.limit = before + 1000;
  const std::string said = message([] { Tensor<float>::empty({1000}); });
  cpu_device.limit = 0;
  CHECK(said.find("memory: a tensor of 4000 bytes would pass the limit") == 0);
  CHECK(cpu_device.live == before);
}

TEST_CASE("a CUDA tensor without the backend names the file to add") {
  if (cuda_available()) return;
  const std::string said = message([] { Tensor<float>::zeros({2}).to(Device::cuda); });
  CHECK((said.find("cuda.cu") != std::string::npos || said.find("CUDA") != std::string::npos));
}

TEST_CASE("half precision: every bit pattern goes to float and back") {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    float16 h;
    h.bits = static_cast<std::uint16_t>(bits);
    const float f = h;
    if (std::isnan(f)) {
      CHECK(std::isnan(static_cast<float>(float16(f))));
      continue;
    }
    REQUIRE(float16(f).bits == h.bits);
    bfloat16 b;
    b.bits = static_cast<std::uint16_t>(bits);
    const float g = b;
    if (!std::isnan(g)) REQUIRE(bfloat16(g).bits == b.bits);
  }
  CHECK(static_cast<float>(float16(65504.0f)) == 65504.0f);
  CHECK(std::isinf(static_cast<float>(float16(65520.0f))));
  CHECK(static_cast<float>(float16(65519.0f)) == 65504.0f);
  CHECK(static_cast<float>(float16(5.9604644775390625e-8f)) == 5.9604644775390625e-8f);
  CHECK(static_cast<float>(float16(2.9e-8f)) == 0.0f);
  // Ties go to even: 1 + 2^-11 lies between 1 and 1 + 2^-10.
  CHECK(static_cast<float>(float16(1.00048828125f)) == 1.0f);
  CHECK(static_cast<float>(float16(1.00146484375f)) == 1.001953125f);
  CHECK(static_cast<float>(bfloat16(1.00390625f)) == 1.0f);
  CHECK(static_cast<float>(bfloat16(1.01171875f)) == 1.015625f);
}

TEST_CASE("AnyTensor shares what fits and converts what does not") {
  const Tensor<float> a({3}, {1.5f, -2, 3});
  const AnyTensor any(a);
  CHECK(any.dtype == Dtype::f32);
  CHECK(any.as<float>().data() == a.data());
  CHECK(any.as<double>().values() == std::vector<double>{1.5, -2, 3});
  CHECK(any.as<std::int64_t>().values() == std::vector<std::int64_t>{1, -2, 3});
  Tensor<bfloat16> half({2}, {bfloat16(1.0f), bfloat16(-0.5f)});
  CHECK(AnyTensor(half).as<float>().values() == std::vector<float>{1, -0.5f});
  // Unaligned bytes are copied.
  std::vector<std::byte> raw(9);
  const float v[2] = {7, 8};
  std::memcpy(raw.data() + 1, v, 8);
  AnyTensor odd;
  odd.shape = {2};
  odd.data = raw.data() + 1;
  odd.bytes = 8;
  odd.owner = std::make_shared<int>(0);
  CHECK(odd.as<float>().values() == std::vector<float>{7, 8});
  odd.dtype = Dtype::other;
  CHECK(message([&] { odd.as<float>(); }).find("cannot be converted") != std::string::npos);
}
