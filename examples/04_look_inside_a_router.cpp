// Look inside a router: record one gate, count all of them, draw a map in the terminal, and write
// a page that opens offline: look_inside_a_router.html, or the path that is given.
//
// The trunks here are random and the experts untrained, so the example runs at once. What the page
// then shows is what a router does before it has learned anything: the figures to beat.
#include <cstdio>
#include <moraine/data/crops.hpp>
#include <moraine/inspect/recorder.hpp>
#include <moraine/inspect/report.hpp>
#include <moraine/recipes/segmenter.hpp>
#include <moraine/recipes/small_trunks.hpp>
#include <utility>

using namespace moraine;

int main(int count, char** arguments) {
  set_threads(1);
  const NoGrad off;
  ViT<float> vision(small_trunk_config(4)), depth(small_trunk_config(3));
  init_small<float>(vision, 1);
  init_small<float>(depth, 2);
  SegmenterConfig config;
  config.moe.gate.logits = GateLogits::dot;
  Segmenter<float> net(config, std::move(vision), std::move(depth));

  // Everything that the model observes under a name that matches is kept.
  inspect::Recorder recorder({.patterns = {"moe.3.*.gates"}});
  // Everything of every gate is counted, over any number of tiles.
  inspect::RoutingCollector routing({.classes = data::land_count, .rows_per_tile = 256});

  const data::Domain domain = data::domain("source");
  data::Scene scene;
  Tensor<std::uint8_t> map;
  for (std::uint64_t tile = 0; tile < 4; ++tile) {
    const data::Layout land =
        data::make_layout(7 + tile, {.gsd = domain.gsd, .height = 64, .width = 64});
    scene = data::render(land, domain, tile);
    Tensor<float> pixels = scene.reflectance.clone().reshaped({1, 4, 64, 64});
    data::normalise(pixels, data::demo_normalisation(4));
    const auto labels = AnyTensor(scene.labels).as<std::int64_t>();  // (64,64)
    routing.labels(inspect::patch_labels(labels, 4));                // (256)
    {
      const Observing listen(routing);
      net(pixels);
    }
    if (tile == 0) {
      const Observing listen(recorder);
      net(pixels);
    }
  }

  for (const std::string& name : recorder.names())
    std::printf("%s %s\n", name.c_str(), str(recorder.last(name).shape).c_str());

  const auto places = routing.places();
  std::printf("\n%-16s %12s %13s %11s %9s %9s\n", "gate", "load entropy", "largest share",
              "information", "shuffled", "swapped");
  for (const inspect::RoutingPlace& p : places)
    std::printf("%-16s %12.2f %13.2f %11.2f %9.2f %9.2f\n", p.path.c_str(), p.stats.load_entropy(),
                p.stats.share(p.stats.busiest()), p.stats.class_information().ratio,
                p.stats.shuffled().ratio, p.stats.swapped().ratio);

  const inspect::ExpertMap last = inspect::expert_map(places[0], 16, 16);
  std::printf("\nexpert of every patch, %s, last tile\n", places[0].path.c_str());
  for (Index y = 0; y < 16; ++y) {
    for (Index x = 0; x < 16; ++x) std::printf(" %d", last.winner.at({y, x}));
    std::printf("\n");
  }

  inspect::Report page("A router before it has learned anything",
                       "Random trunks, untrained experts: the figures to beat.");
  page.section("The scene");
  page.add_how("One of four tiles, as the sensor sees it and as it is.");
  const std::vector<inspect::Colour> colours(data::land_palette.begin(), data::land_palette.end());
  page.add_images(
      {{"Scene", inspect::composite(scene.reflectance), "Red, green, blue"},
       {"Truth", inspect::class_picture(scene.labels, colours), "Class of each pixel"}});
  std::vector<inspect::LegendItem> legend;
  for (std::size_t c = 0; c < colours.size(); ++c)
    legend.push_back({data::land_names[c], colours[c]});
  page.add_legend(legend);
  page.section("Experts, patch by patch");
  inspect::ReportExpertMaps maps{.experts = config.moe.experts,
                                 .scene = inspect::composite(scene.reflectance)};
  for (const inspect::RoutingPlace& p : places) maps.maps.push_back(inspect::expert_map(p, 16, 16));
  page.add_expert_maps(maps);
  page.section("What the experts know");
  page.add_routing(
      {.places = places, .class_names = {data::land_names.begin(), data::land_names.end()}});
  page.save(count > 1 ? arguments[1] : "look_inside_a_router.html");
}
