#pragma once
// What a report says about experts: maps by layer with a slider and a lens, loads, what the name of
// an expert tells about the class, in pictures, numbers and words.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/core/tensor.hpp>
#include <moraine/inspect/html.hpp>
#include <moraine/inspect/picture.hpp>
#include <moraine/inspect/report_parts.hpp>
#include <moraine/inspect/routing.hpp>
#include <moraine/inspect/svg.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moraine::inspect {

/// Maps by layer and stream, with a slider for the layer.
struct ReportExpertMaps {
  Index experts = 0;
  std::vector<ExpertMap> maps{};  ///< any order; all of one size
  Picture scene{};                ///< optional, (H,W,3), lies under the winners
  std::string how =
      "Each small square is one patch. Left: which expert won it, by colour and number. Middle: "
      "the "
      "probability that the gate gave the winner, among all experts; bright is sure. Right: the "
      "entropy of that choice; dark means a clear decision, bright means that all experts looked "
      "alike. Move the layer slider with the mouse or the arrow keys and watch whether regions "
      "keep their expert; blend the scene in to see what lies below. Click a patch (or focus a map "
      "and use the arrow keys) to follow it through all layers.";
};

struct ReportRouting {
  std::vector<RoutingPlace> places{};      ///< RoutingCollector::places()
  std::vector<std::string> class_names{};  ///< as many as the statistics have classes, or none
  std::uint64_t seed = 0;                  ///< of the shuffled control
  std::string how =
      "Load: how the patches are divided among the experts. Load entropy is 1 when all work alike "
      "and 0 when one does everything. Class information: how much of the uncertainty about a "
      "patch's class disappears once the name of its expert is known; 0 nothing, 1 all of it. Two "
      "controls belong to it: labels shuffled among all patches show what mere counting gives, and "
      "labels taken from another tile show what smooth regions give by chance. Only what stands "
      "clearly above both says that experts follow classes.";
};

/// Every layer, one below the other; the script of the page then shows one at a time.
inline std::string render(const ReportExpertMaps& m) {
  std::string out;
  const auto put = [&](const std::string& text) { out += text; };
  if (m.maps.empty()) return out;
  const Shape size = m.maps[0].winner.shape();
  std::vector<Index> layers;
  std::vector<std::string> streams;
  for (const ExpertMap& map : m.maps) {
    for (const auto* t : {&map.winner, &map.probability, &map.entropy})
      if (!t->defined() || t->rank() != 2 || !t->numel() || t->shape() != size)
        fail(ErrorKind::shape, "report: expert maps must be (h,w), all of one size; " + str(size) +
                                   " and " + str(t->shape()));
    if (std::find(layers.begin(), layers.end(), map.layer) == layers.end())
      layers.push_back(map.layer);
    if (std::find(streams.begin(), streams.end(), map.stream) == streams.end())
      streams.push_back(map.stream);
  }
  std::sort(layers.begin(), layers.end());
  put(render_how(m.how));
  std::vector<LegendItem> experts;
  std::string colours, inks;
  for (Index e = 0; e < m.experts; ++e) {
    experts.push_back({"expert " + std::to_string(e), palette(e)});
    colours += (e ? " " : "") + hex(palette(e));
    inks += std::string(e ? " " : "") + (is_light(palette(e)) ? "#111" : "#fff");
  }
  put(render(experts));
  std::string bar;
  for (int i = 0; i <= 10; ++i) bar += (i ? "," : "") + hex(ramp(i / 10.0));
  put("<p class=\"note\">Probability and entropy: 0 <span class=\"bar\" "
      "style=\"background:linear-gradient(to right," +
      bar + ")\"></span> 1</p>\n");

  const Index h = size[0], w = size[1];
  // What a click reads, inside the page; a large scene is looked at in routing.tif instead.
  const bool lens = h * w <= 128 * 128;
  std::string box = "<div class=\"layers\" data-w=\"" + std::to_string(w) + "\" data-h=\"" +
                    std::to_string(h) + "\" data-colours=\"" + colours + "\" data-inks=\"" + inks +
                    "\" style=\"--ratio:" + std::to_string(w) + "/" + std::to_string(h);
  if (m.scene.defined()) {
    detail::check_picture(m.scene, "scene below the expert maps");
    box += ";--scene:url(" + png_address(m.scene) + ")";
  }
  put(box +
      "\">\n<div class=\"controls\" hidden><label>Layer <input class=\"which\" type=\"range\" "
      "min=\"0\" max=\"" +
      std::to_string(layers.size() - 1) + "\" value=\"0\"></label> <output>" +
      std::to_string(layers[0]) + "</output>" +
      (m.scene.defined() ? "<label>Scene <input class=\"blend\" type=\"range\" min=\"0\" "
                           "max=\"100\" value=\"100\"> Experts</label>"
                         : "") +
      "<label><input class=\"all\" type=\"checkbox\"> all layers</label></div>\n");
  if (lens) put("<div class=\"readout\" aria-live=\"polite\" hidden></div>\n");
  for (Index l : layers) {
    const std::string layer = std::to_string(l);
    put("<div class=\"layer\" data-layer=\"" + layer + "\">\n<h3>Layer " + layer + "</h3>\n");
    for (const std::string& s : streams)
      for (const ExpertMap& map : m.maps) {
        if (map.layer != l || map.stream != s) continue;
        std::string values;
        for (const auto* t : {&map.winner, &map.probability, &map.entropy}) {
          const auto v = t->values();
          values.append(v.begin(), v.end());
        }
        const std::string name = s.empty() ? "" : s + " stream, ";
        put("<div class=\"pictures\" data-layer=\"" + layer + "\" data-stream=\"" +
            escape(s.empty() ? "gate" : s) + "\"" +
            (lens ? " data-v=\"" + base64(values) + "\"" : "") + ">\n");
        const auto figure = [&](const Picture& p, const std::string& what) {
          put("<figure><div class=\"stack\"><img src=\"" + png_address(p) + "\" alt=\"" +
              escape("Layer " + layer + ", " + name + what) + "\"></div><figcaption><b>" +
              escape(what) + "</b> " + escape(name) + "layer " + layer +
              "</figcaption></figure>\n");
        };
        figure(expert_picture(map.winner), "Winning expert");
        figure(ramp_picture(map.probability), "Probability of the winner");
        figure(ramp_picture(map.entropy), "Entropy of the choice");
        put("</div>\n");
      }
    put("</div>\n");
  }
  put("</div>\n");
  return out;
}

/// In words, loads, class information, numbers, class tables.
inline std::string render(const ReportRouting& r) {
  std::string out;
  const auto put = [&](const std::string& text) { out += text; };
  if (r.places.empty()) return out;
  put(render_how(r.how));
  const auto name = [](const RoutingPlace& p) {
    const std::string layer = p.layer < 0 ? p.path : "layer " + std::to_string(p.layer);
    return p.stream.empty() ? layer : p.stream + ", " + layer;
  };
  struct Seen {
    Information plain, shuffled, swapped;
  };
  std::vector<Seen> seen;
  const RoutingPlace* follows = nullptr;
  Seen best;
  for (const RoutingPlace& p : r.places) {
    seen.push_back({p.stats.class_information(), p.stats.shuffled(r.seed), p.stats.swapped()});
    if (seen.back().plain.rows && (!follows || seen.back().plain.ratio > best.plain.ratio))
      follows = &p, best = seen.back();
  }
  const auto class_name = [&](Index c) {
    const auto i = static_cast<std::size_t>(c);
    return i < r.class_names.size() ? r.class_names[i] : "class " + std::to_string(c);
  };

  // In words, by fixed rules: a share above 80 % or below 1 %, and the most telling cell.
  std::vector<std::string> said;
  for (const RoutingPlace& p : r.places) {
    const RoutingStats& s = p.stats;
    if (!s.rows() || s.experts() < 2) continue;
    if (s.share(s.busiest()) > 0.8)
      said.push_back("Collapse: in " + name(p) + ", expert " + std::to_string(s.busiest()) +
                     " handles " + percent(s.share(s.busiest())) + " of all patches.");
    std::string idle;
    for (Index e = 0; e < s.experts(); ++e)
      if (s.share(e) < 0.01) idle += (idle.empty() ? "" : ", ") + std::to_string(e);
    if (!idle.empty())
      said.push_back("Idle: in " + name(p) + ", fewer than 1 % of the patches reach expert " +
                     idle + ".");
  }
  if (said.empty()) said.push_back("No gate has collapsed and no expert is idle.");
  if (follows) {
    const RoutingStats& s = follows->stats;
    Index at_class = -1, at_expert = 0;
    double most = 0;
    for (Index c = 0; c < s.classes(); ++c)
      for (Index e = 0; e < s.experts(); ++e) {
        std::int64_t all = 0;
        for (Index k = 0; k < s.classes(); ++k) all += s.at(k, e);
        const double q = static_cast<double>(s.at(c, e));
        const double gain =
            q > 0 ? q * std::log(q * static_cast<double>(best.plain.rows) /
                                 static_cast<double>(s.in_class(c)) / static_cast<double>(all))
                  : 0;
        if (gain > most) most = gain, at_class = c, at_expert = e;
      }
    const double chance = std::max(best.shuffled.ratio, best.swapped.ratio);
    std::string text =
        "Experts follow classes most in " + name(*follows) + ": the expert tells " +
        fixed(100 * best.plain.ratio, 1) + " % of what there is to know about the class (" +
        fixed(100 * best.shuffled.ratio, 1) + " % with shuffled labels" +
        (best.swapped.rows
             ? ", " + fixed(100 * best.swapped.ratio, 1) + " % with those of another tile"
             : "") +
        ").";
    if (at_class >= 0)
      text += " There, expert " + std::to_string(at_expert) + " handles " +
              percent(static_cast<double>(s.at(at_class, at_expert)) /
                      static_cast<double>(s.in_class(at_class))) +
              " of the patches of " + class_name(at_class) + " and " + percent(s.share(at_expert)) +
              " of all patches.";
    if (best.plain.ratio < 0.05 || best.plain.ratio < 2 * chance)
      text += " That is little: these experts are not specialists for classes.";
    said.push_back(text);
  }
  put("<h3>In words</h3>\n<ul class=\"findings\">");
  for (const std::string& s : said) put("<li>" + escape(s) + "</li>");
  put("</ul>\n");

  StackedBars loads{"Load of every expert (share of the patches it won)", {}, {}};
  Index experts = 0;
  for (const RoutingPlace& p : r.places) {
    experts = std::max(experts, p.stats.experts());
    loads.rows.push_back({name(p), {}});
    for (Index e = 0; e < p.stats.experts(); ++e)
      loads.rows.back().shares.push_back(p.stats.share(e));
  }
  for (Index e = 0; e < experts; ++e) loads.parts.push_back("expert " + std::to_string(e));
  put(render_chart(loads));

  if (follows) {
    LineChart lines{"Class information by layer", "layer", "information / H(class)", {}, true};
    std::vector<std::string> streams;
    for (const RoutingPlace& p : r.places)
      if (std::find(streams.begin(), streams.end(), p.stream) == streams.end())
        streams.push_back(p.stream);
    for (std::size_t k = 0; k < streams.size(); ++k) {
      const std::string& s = streams[k];
      Series plain{s.empty() ? "experts" : s, {}, {}, static_cast<Index>(k)};
      Series swapped{plain.name + ", another tile", {}, {}, plain.style, true},
          shuffled{plain.name + ", shuffled", {}, {}, plain.style, true};
      for (std::size_t i = 0; i < r.places.size(); ++i) {
        if (r.places[i].stream != s) continue;
        const double x = static_cast<double>(r.places[i].layer);
        plain.x.push_back(x), plain.y.push_back(seen[i].plain.ratio);
        shuffled.x.push_back(x), shuffled.y.push_back(seen[i].shuffled.ratio);
        if (seen[i].swapped.rows)
          swapped.x.push_back(x), swapped.y.push_back(seen[i].swapped.ratio);
      }
      lines.series.push_back(plain);
      lines.series.push_back(swapped.x.empty() ? shuffled : swapped);
    }
    put(render_chart(lines));
  }

  ReportTable numbers{"Routing in numbers",
                      {"gate", "patches", "load entropy", "largest share (expert)",
                       "mean probability", "mean entropy"},
                      {}};
  if (follows)
    for (const char* c : {"information, nats", "of H(class)", "shuffled", "another tile"})
      numbers.columns.push_back(c);
  for (std::size_t i = 0; i < r.places.size(); ++i) {
    const RoutingStats& s = r.places[i].stats;
    numbers.rows.push_back(
        {name(r.places[i]), thousands(s.rows()), fixed(s.load_entropy(), 3),
         fixed(s.share(s.busiest()), 3) + " (" + std::to_string(s.busiest()) + ")",
         fixed(s.mean_probability(), 3), fixed(s.mean_entropy(), 3)});
    if (!follows) continue;
    auto& row = numbers.rows.back();
    row.push_back(fixed(seen[i].plain.mutual, 4));
    row.push_back(fixed(seen[i].plain.ratio, 4));
    row.push_back(fixed(seen[i].shuffled.ratio, 4));
    row.push_back(seen[i].swapped.rows ? fixed(seen[i].swapped.ratio, 4) : "n/a");
  }
  put(render(numbers));

  if (!follows) return out;
  put("<h3>Which class goes to which expert</h3>\n");
  put(render_how(
      "A row is a class; its cells add up to 100 %. Bright cells are where the patches of that "
      "class go. If all rows look alike, the experts do not care about classes. The gate that "
      "tells most stands first and is open, all others can be unfolded."));
  std::vector<const RoutingPlace*> order{follows};
  for (const RoutingPlace& p : r.places)
    if (&p != follows && p.stats.classes()) order.push_back(&p);
  for (const RoutingPlace* place : order) {
    const RoutingPlace& p = *place;
    const RoutingStats& s = p.stats;
    HeatTable heat{"Patches of each class by expert: " + name(p), "class", "", {}, {}, {}, {}, {}};
    for (Index e = 0; e < s.experts(); ++e) {
      heat.columns.push_back(std::to_string(e));
      heat.column_colours.push_back(palette(e));
    }
    heat.column_title = "expert";
    for (Index c = 0; c < s.classes(); ++c) {
      heat.rows.push_back(class_name(c));
      heat.notes.push_back(thousands(s.in_class(c)) + " patches");
      for (Index e = 0; e < s.experts(); ++e)
        heat.values.push_back(s.in_class(c) ? static_cast<double>(s.at(c, e)) /
                                                  static_cast<double>(s.in_class(c))
                                            : std::numeric_limits<double>::quiet_NaN());
    }
    put(std::string("<details") + (&p == follows ? " open" : "") + "><summary>" + escape(name(p)) +
        "</summary>\n");
    put(render_chart(heat));
    put("</details>\n");
  }
  return out;
}

}  // namespace moraine::inspect
