#pragma once
// The DPT head (Ranftl et al., 2021) as Depth Anything V2 and Prompt Depth Anything use it: tokens
// of a few blocks become one map of depth. For recipes/depth_anything.hpp, or behind any trunk.
//
//   reassemble   tokens -> maps of several sizes: 1x1 convolution, then x4, x2, x1, x1/2
//   convs        each to F channels, 3x3, no bias
//   fusion       from the deepest map up: x + rcu1(skip), rcu2, to the next map's size, 1x1
//   head         3x3, to the image's size, 3x3, relu, 1x1, relu or sigmoid
//
// Parameters stand under the names of the Hugging Face files ("neck.fusion_stage.layers.0" is the
// deepest). Facts from transformers' modeling_depth_anything.py and
// modeling_prompt_depth_anything.py.
#include <moraine/nn/conv.hpp>
#include <moraine/nn/observe.hpp>
#include <moraine/ops/binary.hpp>
#include <moraine/ops/linear.hpp>
#include <moraine/ops/reduce.hpp>
#include <moraine/ops/resize.hpp>
#include <moraine/ops/shape.hpp>
#include <moraine/ops/unary.hpp>

#include <cmath>
#include <string>
#include <vector>

namespace moraine MORAINE_API {

/// What the last activation is: relative depth is any number from 0, metric a part of max_depth.
enum class DepthKind : unsigned char { relative, metric };

struct DptConfig {
  Index width = 384;                             ///< D of the tokens
  Index patch = 14;                              ///< pixels of a patch's side
  std::vector<double> factors = {4, 2, 1, 0.5};  ///< above 1: whole; below: stride int(1/factor)
  std::vector<Index> channels = {48, 96, 192, 384};
  Index fusion = 64, head = 32;
  Index head_in = -1;  ///< which fused map the head reads, from the deepest; below 0: from the end
  DepthKind kind = DepthKind::relative;
  double max_depth = 1;  ///< multiplies the depth, of either kind
  bool prompt = false;   ///< has layers for a prompt depth
};

/// Throws ErrorKind::value for a head that cannot be built.
inline void check_dpt(const DptConfig& c) {
  const auto bad = [](const std::string& what) { fail(ErrorKind::value, "dpt: " + what); };
  const Index n = static_cast<Index>(c.channels.size());
  if (n < 1 || c.factors.size() < c.channels.size())
    bad("needs a factor for each map's channels; " + std::to_string(c.factors.size()) +
        " factors, " + std::to_string(n) + " channels");
  for (double f : c.factors)
    if (!(f > 0 && f <= 64) || (f > 1 && f != std::floor(f)) || f < 1.0 / 64)
      bad("factors must be whole above 1, and between 1/64 and 64; " + std::to_string(f));
  for (Index k : c.channels)
    if (k < 1) bad("channels must be positive; " + std::to_string(k));
  if (c.width < 1 || c.patch < 1 || c.fusion < 2 || c.head < 1)
    bad("width, patch and head must be at least 1, fusion 2; " + std::to_string(c.width) + ", " +
        std::to_string(c.patch) + ", " + std::to_string(c.head) + ", " + std::to_string(c.fusion));
  if (c.head_in < -n || c.head_in >= n)
    bad("head_in names no map; " + std::to_string(c.head_in) + " of " + std::to_string(n));
}

/// Tokens -> a map of another size.
template <class T>
struct DptReassemble {
  ConvLayer<T> projection;       ///< 1x1, D -> c
  ConvTransposeLayer<T> larger;  ///< factor above 1
  ConvLayer<T> smaller;          ///< factor below 1

  DptReassemble(Index width, Index channels, double factor) : projection(width, channels, 1, true) {
    if (factor > 1) larger = ConvTransposeLayer<T>(channels, channels, static_cast<Index>(factor));
    if (factor < 1)
      smaller = ConvLayer<T>(channels, channels, 3, true,
                             {.stride = static_cast<Index>(1 / factor), .padding = 1});
  }
  /// (B,N,D), N = grid.h * grid.w -> (B,c,H,W)
  Tensor<T> operator()(const Tensor<T>& tokens, Size2 grid) const {
    const Index c = projection.weight.size(0), d = projection.weight.size(1);
    const Tensor<T> y =
        linear(tokens, reshape(projection.weight, {c, d}), projection.bias);  // (B,N,c)
    const Tensor<T> map =
        reshape(permute(y, {0, 2, 1}), {y.size(0), c, grid.h, grid.w});  // (B,c,h,w)
    if (larger.weight.defined()) return larger(map);                     // (B,c,kh,kw)
    return smaller.weight.defined() ? smaller(map) : map;
  }
  void visit(Visitor<T>& v) {
    v("projection", projection);
    v("resize", larger);
    v("resize", smaller);
  }
};

/// x + conv2(relu(conv1(relu x))), 3x3 each.
template <class T>
struct DptResidual {
  ConvLayer<T> convolution1, convolution2;
  explicit DptResidual(Index f)
      : convolution1(f, f, 3, true, {.padding = 1}), convolution2(f, f, 3, true, {.padding = 1}) {}
  /// (B,F,H,W) -> (B,F,H,W)
  Tensor<T> operator()(const Tensor<T>& x) const {
    return add(convolution2(relu(convolution1(relu(x)))), x);
  }
  void visit(Visitor<T>& v) {
    v("convolution1", convolution1);
    v("convolution2", convolution2);
  }
};

/// A depth in [0,1] -> what is added to a fused map of its size.
template <class T>
struct DptPrompt {
  ConvLayer<T> convolution1, convolution2, convolution3;
  DptPrompt() = default;
  explicit DptPrompt(Index f)
      : convolution1(1, f, 3, true, {.padding = 1}),
        convolution2(f, f, 3, true, {.padding = 1}),
        convolution3(f, f, 3, true, {.padding = 1}) {}
  /// (B,1,H,W) -> (B,F,H,W)
  Tensor<T> operator()(const Tensor<T>& depth) const {
    return convolution3(relu(convolution2(relu(convolution1(depth)))));
  }
  void visit(Visitor<T>& v) {
    v("convolution1", convolution1);
    v("convolution2", convolution2);
    v("convolution3", convolution3);
  }
};

template <class T>
struct DptFusion {
  ConvLayer<T> projection;
  DptResidual<T> residual_layer1, residual_layer2;
  DptPrompt<T> prompt_depth_layer;

  DptFusion(Index f, bool prompt)
      : projection(f, f, 1, true), residual_layer1(f), residual_layer2(f) {
    if (prompt) prompt_depth_layer = DptPrompt<T>(f);
  }
  /// x (B,F,H,W), skip of the same shape or undefined (the deepest map has none, and its
  /// residual_layer1 is never used), prompt (B,1,h,w) or undefined -> (B,F,to.h,to.w).
  Tensor<T> operator()(Tensor<T> x, const Tensor<T>& skip, const Tensor<T>& prompt,
                       Size2 to) const {
    if (skip.defined()) x = add(x, residual_layer1(skip));
    x = residual_layer2(x);
    if (prompt.defined())
      x = add(x, prompt_depth_layer(resize(prompt, {.size = {x.size(2), x.size(3)}})));
    return projection(resize(x, {.size = to, .align_corners = true}));
  }
  void visit(Visitor<T>& v) {
    v("projection", projection);
    v("residual_layer1", residual_layer1);
    v("residual_layer2", residual_layer2);
    v("prompt_depth_layer", prompt_depth_layer);
  }
};

template <class T>
struct DptNeck {
  struct Reassemble {
    std::vector<DptReassemble<T>> layers;
    void visit(Visitor<T>& v) { v("layers", layers); }
  } reassemble_stage;
  std::vector<ConvLayer<T>> convs;
  struct Fusion {
    std::vector<DptFusion<T>> layers;
    void visit(Visitor<T>& v) { v("layers", layers); }
  } fusion_stage;

  DptNeck() = default;
  explicit DptNeck(const DptConfig& c) {
    for (std::size_t i = 0; i < c.channels.size(); ++i) {
      reassemble_stage.layers.emplace_back(c.width, c.channels[i], c.factors[i]);
      convs.emplace_back(c.channels[i], c.fusion, 3, false, ConvOptions{.padding = 1});
      fusion_stage.layers.emplace_back(c.fusion, c.prompt);
    }
  }
  /// Tokens (B,N,D) of each stage -> the fused maps (B,F,H,W), deepest first, up to `last`.
  std::vector<Tensor<T>> operator()(const std::vector<Tensor<T>>& stages, Size2 grid,
                                    const Tensor<T>& prompt, std::size_t last) const {
    const std::size_t n = convs.size();
    std::vector<Tensor<T>> maps(n), fused;
    for (std::size_t i = 0; i < n; ++i) {
      Scope scope("neck.convs", static_cast<Index>(i));
      maps[i] = convs[i](reassemble_stage.layers[i](stages[i], grid));  // (B,F,H,W)
    }
    for (std::size_t j = 0; j <= last; ++j) {
      Scope scope("neck.fusion", static_cast<Index>(j));
      const Tensor<T> here = maps[n - 1 - j];
      const Tensor<T>& next = j + 1 < n ? maps[n - 2 - j] : here;
      const Index times = j + 1 < n ? 1 : 2;  // the shallowest map is doubled
      const Size2 to{times * next.size(2), times * next.size(3)};
      fused.push_back(j ? fusion_stage.layers[j](fused.back(), here, prompt, to)
                        : fusion_stage.layers[j](here, {}, prompt, to));
      observe("map", fused.back());
      maps[n - 1 - j] = {};
    }
    return fused;
  }
  void visit(Visitor<T>& v) {
    v("reassemble_stage", reassemble_stage);
    v("convs", convs);
    v("fusion_stage", fusion_stage);
  }
};

template <class T>
struct DptDepthHead {
  ConvLayer<T> conv1, conv2, conv3;
  DptDepthHead() = default;
  explicit DptDepthHead(const DptConfig& c)
      : conv1(c.fusion, c.fusion / 2, 3, true, {.padding = 1}),
        conv2(c.fusion / 2, c.head, 3, true, {.padding = 1}),
        conv3(c.head, 1, 1, true) {}
  /// A fused map (B,F,H,W) -> (B,1,to.h,to.w), before the last activation.
  Tensor<T> operator()(const Tensor<T>& x, Size2 to) const {
    const Tensor<T> y = resize(conv1(x), {.size = to, .align_corners = true});  // (B,F/2,H',W')
    return conv3(relu(conv2(y)));                                               // (B,1,H',W')
  }
  void visit(Visitor<T>& v) {
    v("conv1", conv1);
    v("conv2", conv2);
    v("conv3", conv3);
  }
};

template <class T>
struct Dpt {
  DptConfig config;
  DptNeck<T> neck;
  DptDepthHead<T> head;

  Dpt() = default;
  /// All parameters zero, to be loaded or initialised. Throws ErrorKind::value.
  explicit Dpt(const DptConfig& c) : config((check_dpt(c), c)), neck(c), head(c) {}

  /// Tokens of the stages (B,N,D), N = grid.h * grid.w row by row, without CLS or registers, from
  /// shallow to deep -> depth (B, patch*grid.h, patch*grid.w).
  ///
  /// With a prompt (B,1,h,w), of any size and in any unit: it is brought to [0,1] by its own
  /// smallest and largest value, image by image, and the depth back by them; a constant prompt
  /// divides by zero, as in the reference.
  Tensor<T> operator()(const std::vector<Tensor<T>>& stages, Size2 grid,
                       const Tensor<T>& prompt = {}) const {
    Scope scope("dpt");
    const std::size_t n = config.channels.size();
    if (stages.size() != n)
      fail(ErrorKind::value, "dpt: needs the tokens of " + std::to_string(n) + " stages; " +
                                 std::to_string(stages.size()));
    for (const Tensor<T>& t : stages)
      if (t.rank() != 3 || t.size(1) != grid.h * grid.w || t.size(2) != config.width)
        fail(ErrorKind::shape, "dpt: needs tokens (B," + std::to_string(grid.h * grid.w) + "," +
                                   std::to_string(config.width) + "); " + str(t.shape()));
    Tensor<T> unit, low, range;
    if (prompt.defined()) {
      check_prompt(prompt, stages[0].size(0));
      const Index b = prompt.size(0);
      const Tensor<T> flat = reshape(prompt, {b, prompt.size(2) * prompt.size(3)});  // (B,hw)
      low = reshape(min(flat, 1).values, {b, 1, 1, 1});
      range = sub(reshape(max(flat, 1).values, {b, 1, 1, 1}), low);
      unit = div(sub(prompt, low), range);  // (B,1,h,w)
    }
    const std::size_t at = static_cast<std::size_t>(
        config.head_in < 0 ? static_cast<Index>(n) + config.head_in : config.head_in);
    Tensor<T> y = head(neck(stages, grid, unit, at)[at],
                       {config.patch * grid.h, config.patch * grid.w});  // (B,1,H,W)
    y = config.kind == DepthKind::metric ? sigmoid(y) : relu(y);
    if (config.max_depth != 1) y = scale(y, static_cast<T>(config.max_depth));
    if (unit.defined()) y = add(mul(y, range), low);
    return reshape(y, {y.size(0), y.size(2), y.size(3)});  // (B,H,W)
  }
  /// Throws unless the head has layers for a prompt and the prompt is (B,1,h,w), not empty.
  void check_prompt(const Tensor<T>& prompt, Index batch) const {
    if (!config.prompt)
      fail(ErrorKind::value, "dpt: this head has no layers for a prompt; " + str(prompt.shape()));
    if (prompt.rank() != 4 || prompt.size(0) != batch || prompt.size(1) != 1 ||
        prompt.size(2) < 1 || prompt.size(3) < 1)
      fail(ErrorKind::shape, "dpt: the prompt must be (" + std::to_string(batch) +
                                 ",1,h,w), not empty; " + str(prompt.shape()));
  }
  void visit(Visitor<T>& v) {
    v("neck", neck);
    v("head", head);
  }
};

}  // namespace moraine
