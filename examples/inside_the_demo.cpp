// What the demo's SpectralMoE does inside, on the demo's test tiles: how sharply the fusion
// attends, how much of what it adds differs from patch to patch, and whether routing follows the
// place in the window. docs/02 and docs/04 quote what it prints.
//
//   inside_the_demo MODEL_DIR [TRUNKS_DIR]        MODEL_DIR: out/demo/model
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <moraine/recipes/domain_shift.hpp>
#include <moraine/recipes/model_card.hpp>
#include <vector>

using namespace moraine;

namespace {

/// Part of the squares of x (N,D) that its mean row does not hold: 0 when all rows are alike.
double varying(const Tensor<float>& x) {
  const double all = mean(square(x)).item();
  return 1 - static_cast<double>(mean(square(mean(x, {.axes = {0}}))).item()) / all;
}
/// Mean entropy of the rows of p (N,M), over ln M.
double evenness(const Tensor<float>& p) {
  double h = 0;
  for (float v : p.values())
    if (v > 0) h -= static_cast<double>(v) * std::log(static_cast<double>(v));
  return h / static_cast<double>(p.size(0)) / std::log(static_cast<double>(p.size(1)));
}
double entropy(const std::vector<double>& counts) {
  double sum = 0, h = 0;
  for (double c : counts) sum += c;
  for (double c : counts)
    if (c > 0) h -= c / sum * std::log(c / sum);
  return h;
}
/// How much of the uncertainty about the winner the place removes. `shift`: every tile is rolled by
/// another amount, which leaves what many tiles share by chance.
double told_by_place(const std::vector<std::vector<std::int64_t>>& winners, Index experts,
                     std::size_t shift) {
  const std::size_t n = winners[0].size();
  std::vector<double> all(static_cast<std::size_t>(experts));
  double left = 0;
  for (std::size_t i = 0; i < n; ++i) {
    std::vector<double> here(all.size());
    for (std::size_t k = 0; k < winners.size(); ++k) {
      const auto w = static_cast<std::size_t>(winners[k][(i + shift * k) % n]);
      ++here[w], ++all[w];
    }
    left += entropy(here) / static_cast<double>(n);
  }
  const double whole = entropy(all);
  return whole > 0 ? 1 - left / whole : 0;
}

struct Layer {
  double even = 0, delta = 0, depth = 0;
  std::vector<std::vector<std::int64_t>> visual_winners, depth_winners;  // by tile, by patch
};

void look(Segmenter<float>& net, const char* domain) {
  const NoGrad off;
  const Index layers = net.vision.config.depth;
  const auto tiles = domain_tiles(domain, ShiftOptions{}.test_first, ShiftOptions{}.test_tiles);
  const double each = 1 / static_cast<double>(tiles.size());
  std::vector<Layer> seen(static_cast<std::size_t>(layers));
  const Tensor<std::int64_t> bands({static_cast<Index>(net.config.depth_bands.size())},
                                   net.config.depth_bands);
  for (const data::Sample& tile : tiles) {
    Tensor<float> x = tile.image.clone().reshaped(
        {1, tile.image.size(0), tile.image.size(1), tile.image.size(2)});
    data::normalise(x, data::demo_normalisation(x.size(1)));
    Tensor<float> z = net.depth.embed(index_select(x, bands, 1));
    x = net.vision.embed(x);
    for (Index l = 0; l < layers; ++l) {
      x = net.vision.block(l, x);
      z = net.depth.block(l, z);
      const SpectralMoeOutput<float> o = net.moe.layer(l, x, z);
      x = o.out;
      const Index n = o.delta.size(1), d = o.delta.size(2);
      const auto rows = [&](const Tensor<float>& t) { return reshape(t, {n, d}); };
      const float scale = 1 / std::sqrt(static_cast<float>(d));
      Layer& to = seen[static_cast<std::size_t>(l)];
      to.even +=
          each * evenness(softmax(matmul(rows(o.moe_visual), transpose(rows(o.moe_depth)), scale)));
      to.delta += each * varying(rows(o.delta));
      to.depth += each * varying(rows(o.moe_depth));
      to.visual_winners.push_back(argmax(o.visual.logits, 1).values());
      to.depth_winners.push_back(argmax(o.depth.logits, 1).values());
    }
  }
  std::printf("\n%s, %zu tiles\n", domain, tiles.size());
  std::printf("                 varies in        visual winner      depth winner\n");
  std::printf("layer  evenness  Delta     Od     place  shifted     place  shifted\n");
  for (std::size_t l = 0; l < seen.size(); ++l) {
    const Layer& s = seen[l];
    const auto told = [&](const auto& winners, std::size_t shift) {
      return told_by_place(winners, net.config.moe.experts, shift);
    };
    std::printf("%5zu  %8.2f  %5.2f  %5.2f  %8.2f  %7.2f  %8.2f  %7.2f\n", l, s.even, s.delta,
                s.depth, told(s.visual_winners, 0), told(s.visual_winners, 37),
                told(s.depth_winners, 0), told(s.depth_winners, 37));
  }
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2 && argc != 3) {
    std::fprintf(stderr, "usage: inside_the_demo MODEL_DIR [TRUNKS_DIR]\n");
    return 1;
  }
  LoadedModel m = read_model(argv[1], argc == 3 ? argv[2] : "");
  if (m.net.config.method != Method::spectralmoe || m.net.config.moe.fusion != Fusion::eq ||
      !m.net.config.use_depth)
    fail(ErrorKind::value, "inside_the_demo: needs a SpectralMoE with the fusion of the paper");
  std::printf(
      "evenness: entropy of the fusion's attention over ln(patches); 1 is uniform\n"
      "varies: part of the squares that is not the same vector in every patch\n"
      "place: part of the winning expert's entropy that the place in the tile removes; shifted: "
      "the "
      "same\n  with every tile rolled by another amount, a control\n");
  for (const char* domain : {"source", "strong"}) look(m.net, domain);
  return 0;
} catch (const std::exception& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
