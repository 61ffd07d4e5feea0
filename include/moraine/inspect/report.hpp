#pragma once
// Builds report.html: one file that opens offline in any browser, with pictures inside, charts as
// SVG, and a paragraph at each part that says how to read it. The builder grows section by section:
//
//   inspect::Report report("What the experts did");
//   report.section("The scene");
//   report.add_images({{"Scene", composite(x), "Near infrared, red, green"}, {"Map", ...}});
//   report.add_legend({{"water", {0, 90, 181}}, ...});
//   report.section("Experts");
//   report.add_expert_maps({.experts = 6, .maps = {...}, .scene = composite(x)});
//   report.add_routing({.places = collector.places(), .class_names = {...}});
//   report.save("report.html");
//
// All text is escaped; nothing that is added is executed. Pictures are best sent at the size of
// their cells (16 x 16 patches as 16 x 16 pixels): the page enlarges them sharply.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/core/tensor.hpp>
#include <moraine/inspect/html.hpp>
#include <moraine/inspect/picture.hpp>
#include <moraine/inspect/report_style.hpp>
#include <moraine/inspect/routing.hpp>
#include <moraine/inspect/svg.hpp>
#include <moraine/io/file.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moraine::inspect {

struct ReportImage {
  std::string title;
  Picture pixels;  ///< (H,W,3)
  std::string caption{};
};
struct LegendItem {
  std::string name;
  Colour colour;
  std::string note{};
};
struct ReportFact {
  std::string name, value;
};
struct ReportTable {
  std::string title;
  std::vector<std::string> columns;
  std::vector<std::vector<std::string>> rows;  ///< the first cell of a row is its head
  std::string how{};
};

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

struct ReportCurves {
  LineChart chart;
  std::string how =
      "Each line is one method; lower is better. A line that still falls at the right would gain "
      "from more steps. The loss on training tiles says nothing about unseen sensors: that is what "
      "the result table is for.";
};

/// One row for each method, one column for each domain.
struct ReportResults {
  std::string title, metric = "mIoU";
  std::vector<std::string> columns{};  ///< for example source, mild, ..., mean of unseen
  Index source_column = 0;             ///< drawn as a diamond; -1: none
  Index chart_column = -1;             ///< drawn as the bar; -1: the last
  struct Row {
    std::string name;
    std::vector<double> values;        ///< one for each column; NaN: not measured
    std::vector<double> spreads{};     ///< standard deviation over seeds, or empty
    std::vector<std::string> extra{};  ///< one for each of extra_columns
  };
  std::vector<Row> rows{};
  std::vector<std::string> extra_columns{};  ///< trained parameters, seconds, seeds, ...
  std::string how =
      "One bar for each method; longer is better. Dots are the single unseen domains, the diamond "
      "is the sensor that was trained on. Where several seeds were run, the whisker is one "
      "standard deviation; a difference smaller than the whiskers is no difference. In the table "
      "the best value of each column is marked.";
};

class Report {
 public:
  explicit Report(std::string t, std::string sub = "")
      : title(std::move(t)), subtitle(std::move(sub)) {}
  std::string title, subtitle;
  std::string footer = "Made by moraine " MORAINE_VERSION ". This page needs no network.";

  /// Everything added afterwards stands in this section.
  void section(const std::string& name) { sections_.push_back({name, ""}); }
  /// Paragraphs, divided by blank lines.
  void add_text(const std::string& text) {
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = std::min(text.find("\n\n", at), text.size());
      if (end > at) put("<p>" + escape(text.substr(at, end - at)) + "</p>\n");
      at = end + 2;
    }
  }
  /// A marked paragraph: how to read what follows.
  void add_how(const std::string& text) {
    if (!text.empty())
      put("<div class=\"how\"><b>How to read this</b><p>" + escape(text) + "</p></div>\n");
  }
  /// A few numbers in large type.
  void add_facts(const std::vector<ReportFact>& facts) {
    put("<dl class=\"facts\">");
    for (const ReportFact& f : facts)
      put("<div><dt>" + escape(f.name) + "</dt><dd>" + escape(f.value) + "</dd></div>");
    put("</dl>\n");
  }
  void add_images(const std::vector<ReportImage>& images) {
    put("<div class=\"pictures\">\n");
    for (const ReportImage& i : images) {
      check(i.pixels, i.title);
      put("<figure><img src=\"" + png_address(i.pixels) + "\" width=\"" +
          std::to_string(i.pixels.size(1)) + "\" height=\"" + std::to_string(i.pixels.size(0)) +
          "\" alt=\"" + escape(i.title + (i.caption.empty() ? "" : ": " + i.caption)) +
          "\"><figcaption><b>" + escape(i.title) + "</b>" +
          (i.caption.empty() ? "" : "<br>" + escape(i.caption)) + "</figcaption></figure>\n");
    }
    put("</div>\n");
  }
  void add_legend(const std::vector<LegendItem>& items) {
    put("<ul class=\"legend\">");
    for (const LegendItem& i : items)
      put("<li><span class=\"swatch\" style=\"background:" + hex(i.colour) + "\"></span>" +
          escape(i.name) +
          (i.note.empty() ? "" : " <span class=\"note\">" + escape(i.note) + "</span>") + "</li>");
    put("</ul>\n");
  }
  void add_table(const ReportTable& t) {
    add_how(t.how);
    std::string body;
    for (const auto& row : t.rows) {
      if (row.size() != t.columns.size())
        fail(ErrorKind::shape, "report: a row of table \"" + t.title + "\" has " +
                                   std::to_string(row.size()) + " cells for " +
                                   std::to_string(t.columns.size()) + " columns");
      body += "<tr>";
      for (std::size_t j = 0; j < row.size(); ++j)
        body += j ? "<td" + std::string(numeric(row[j]) ? " class=\"n\"" : "") + ">" +
                        escape(row[j]) + "</td>"
                  : "<th scope=\"row\">" + escape(row[j]) + "</th>";
      body += "</tr>\n";
    }
    std::vector<bool> right;
    for (std::size_t j = 0; j < t.columns.size(); ++j)
      right.push_back(j && !t.rows.empty() && numeric(t.rows[0][j]));
    put_table(t.title, t.columns, right, body);
  }
  template <class Chart>
  void add_chart(const Chart& chart) {
    put("<div class=\"chart\">" + svg(chart) + "</div>\n");
  }
  void add_curves(const ReportCurves& c) {
    add_how(c.how);
    add_chart(c.chart);
  }
  void add_results(const ReportResults& r);
  void add_expert_maps(const ReportExpertMaps& m);
  void add_routing(const ReportRouting& r);

  /// The whole page.
  std::string html() const {
    std::string nav, body;
    for (std::size_t i = 0; i < sections_.size(); ++i) {
      const std::string id = "s" + std::to_string(i + 1), name = escape(sections_[i].name);
      if (sections_[i].name.empty()) {
        body += sections_[i].body;
        continue;
      }
      nav += "<li><a href=\"#" + id + "\">" + name + "</a></li>\n";
      body += "<section id=\"" + id + "\" aria-labelledby=\"" + id + "h\">\n<h2 id=\"" + id +
              "h\">" + name + "</h2>\n" + sections_[i].body + "</section>\n";
    }
    return "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
           "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
           // Nothing may be fetched: not even by mistake.
           "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
           "img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n<title>" +
           escape(title) + "</title>\n<style>" + detail::report_css +
           "</style>\n</head>\n<body>\n<a class=\"skip\" href=\"#main\">Skip to the content</a>\n"
           "<div class=\"page\">\n<nav aria-label=\"Sections\"><ol>\n" +
           nav + "</ol></nav>\n<div>\n<header><h1>" + escape(title) + "</h1>\n" +
           (subtitle.empty() ? "" : "<p class=\"sub\">" + escape(subtitle) + "</p>\n") +
           "</header>\n<main id=\"main\">\n" + body + "</main>\n<footer>" + escape(footer) +
           "</footer>\n</div>\n</div>\n<script>" + detail::report_js +
           "</script>\n</body>\n</html>\n";
  }
  /// Writes it, atomically.
  void save(const std::string& path) const { write_file(path, html()); }

 private:
  struct Section {
    std::string name, body;
  };
  void put(const std::string& s) {
    if (sections_.empty()) sections_.emplace_back();  // before the first section: no heading
    sections_.back().body += s;
  }
  static void check(const Picture& p, const std::string& what) {
    if (!p.defined() || p.rank() != 3 || p.size(2) != 3 || !p.numel())
      fail(ErrorKind::shape, "report: picture \"" + what + "\" must be (H,W,3)" +
                                 (p.defined() ? "; " + str(p.shape()) : "; it is not defined"));
  }
  static bool numeric(const std::string& s) {
    if (s == "n/a") return true;
    const std::size_t at = s.find_first_not_of("+-<. ");
    return at != std::string::npos && s[at] >= '0' && s[at] <= '9';
  }
  void put_table(const std::string& name, const std::vector<std::string>& columns,
                 const std::vector<bool>& right, const std::string& body) {
    std::string head;
    for (std::size_t j = 0; j < columns.size(); ++j)
      head += std::string("<th scope=\"col\"") + (right[j] ? " class=\"n\"" : "") + ">" +
              escape(columns[j]) + "</th>";
    put("<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"" + escape(name) +
        "\"><table><caption>" + escape(name) + "</caption><thead><tr>" + head +
        "</tr></thead><tbody>\n" + body + "</tbody></table></div>\n");
  }
  std::vector<Section> sections_;
};

inline void Report::add_results(const ReportResults& r) {
  const std::size_t m = r.columns.size();
  for (const auto& row : r.rows)
    if (row.values.size() != m || (!row.spreads.empty() && row.spreads.size() != m) ||
        row.extra.size() != r.extra_columns.size())
      fail(ErrorKind::shape, "report: row \"" + row.name + "\" of the results has " +
                                 std::to_string(row.values.size()) + " values, " +
                                 std::to_string(row.spreads.size()) + " spreads and " +
                                 std::to_string(row.extra.size()) + " extra cells for " +
                                 std::to_string(m) + " columns and " +
                                 std::to_string(r.extra_columns.size()) + " extra ones");
  if (!m) fail(ErrorKind::shape, "report: results without a column");
  const std::size_t shown = r.chart_column < 0 ? m - 1 : static_cast<std::size_t>(r.chart_column);
  if (shown >= m || r.source_column >= static_cast<Index>(m))
    fail(ErrorKind::value, "report: the results have " + std::to_string(m) + " columns");
  add_how(r.how);

  BarChart chart{r.title, r.metric + ", " + r.columns[shown], {}, {}};
  std::vector<std::size_t> marks;
  if (r.source_column >= 0 && static_cast<std::size_t>(r.source_column) != shown)
    marks.push_back(static_cast<std::size_t>(r.source_column));
  for (std::size_t j = 0; j < m && !marks.empty(); ++j)
    if (j != shown && j != marks[0]) marks.push_back(j);
  for (std::size_t j : marks) chart.mark_names.push_back(r.columns[j]);
  for (const auto& row : r.rows) {
    Bar b{row.name, row.values[shown], row.spreads.empty() ? 0 : row.spreads[shown], {}};
    for (std::size_t j : marks) b.marks.push_back(row.values[j]);
    chart.bars.push_back(std::move(b));
  }
  add_chart(chart);

  // The best is judged on the digits that are shown.
  const auto rounded = [](double v) { return std::isfinite(v) ? std::lround(v * 1000) : -1000000; };
  std::vector<long> best(m, -1000000);
  for (const auto& row : r.rows)
    for (std::size_t j = 0; j < m; ++j) best[j] = std::max(best[j], rounded(row.values[j]));
  std::string body;
  for (const auto& row : r.rows) {
    body += "<tr><th scope=\"row\">" + escape(row.name) + "</th>";
    for (std::size_t j = 0; j < m; ++j) {
      const bool top = std::isfinite(row.values[j]) && rounded(row.values[j]) == best[j];
      body += std::string("<td class=\"n") + (top ? " best" : "") + "\">" + fixed(row.values[j], 3);
      if (!row.spreads.empty() && row.spreads[j] > 0)
        body += " <span class=\"spread\">\xc2\xb1 " + fixed(row.spreads[j], 3) + "</span>";
      body += "</td>";
    }
    for (const std::string& s : row.extra)
      body += std::string("<td") + (numeric(s) ? " class=\"n\"" : "") + ">" + escape(s) + "</td>";
    body += "</tr>\n";
  }
  std::vector<std::string> columns{"method"};
  columns.insert(columns.end(), r.columns.begin(), r.columns.end());
  columns.insert(columns.end(), r.extra_columns.begin(), r.extra_columns.end());
  std::vector<bool> right(columns.size(), true);
  right[0] = false;
  for (std::size_t j = 0; j < r.extra_columns.size() && !r.rows.empty(); ++j)
    right[1 + m + j] = numeric(r.rows[0].extra[j]);
  put_table(r.title + " (" + r.metric + ")", columns, right, body);
}

inline void Report::add_expert_maps(const ReportExpertMaps& m) {
  if (m.maps.empty()) return;
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
  add_how(m.how);
  std::vector<LegendItem> experts;
  std::string colours, inks;
  for (Index e = 0; e < m.experts; ++e) {
    experts.push_back({"expert " + std::to_string(e), palette(e)});
    colours += (e ? " " : "") + hex(palette(e));
    inks += std::string(e ? " " : "") + (is_light(palette(e)) ? "#111" : "#fff");
  }
  add_legend(experts);
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
    check(m.scene, "scene below the expert maps");
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
}

inline void Report::add_routing(const ReportRouting& r) {
  if (r.places.empty()) return;
  add_how(r.how);
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
  add_chart(loads);

  if (follows) {
    LineChart lines{
        "Class information by layer", "layer", "share of H(class) that the expert tells", {}, true};
    std::vector<std::string> streams;
    for (const RoutingPlace& p : r.places)
      if (std::find(streams.begin(), streams.end(), p.stream) == streams.end())
        streams.push_back(p.stream);
    for (const std::string& s : streams) {
      Series plain{s.empty() ? "experts" : s, {}, {}},
          swapped{plain.name + ", another tile", {}, {}},
          shuffled{plain.name + ", shuffled", {}, {}};
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
    add_chart(lines);
  }

  ReportTable numbers{
      "Routing in numbers",
      {"gate", "patches", "load entropy", "largest share", "mean probability", "mean entropy"},
      {}};
  if (follows)
    for (const char* c : {"information, nats", "of H(class)", "shuffled", "another tile"})
      numbers.columns.push_back(c);
  for (std::size_t i = 0; i < r.places.size(); ++i) {
    const RoutingStats& s = r.places[i].stats;
    numbers.rows.push_back(
        {name(r.places[i]), thousands(s.rows()), fixed(s.load_entropy(), 3),
         fixed(s.share(s.busiest()), 3) + " (expert " + std::to_string(s.busiest()) + ")",
         fixed(s.mean_probability(), 3), fixed(s.mean_entropy(), 3)});
    if (!follows) continue;
    auto& row = numbers.rows.back();
    row.push_back(fixed(seen[i].plain.mutual, 4));
    row.push_back(fixed(seen[i].plain.ratio, 4));
    row.push_back(fixed(seen[i].shuffled.ratio, 4));
    row.push_back(seen[i].swapped.rows ? fixed(seen[i].swapped.ratio, 4) : "n/a");
  }
  add_table(numbers);

  if (!follows) return;
  put("<h3>Which class goes to which expert</h3>\n");
  add_how(
      "A row is a class; its cells add up to 100 %. Bright cells are where the patches of that "
      "class go. If all rows look alike, the experts do not care about classes. The gate that "
      "tells most is open, all others can be unfolded.");
  for (const RoutingPlace& p : r.places) {
    const RoutingStats& s = p.stats;
    if (!s.classes()) continue;
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
    add_chart(heat);
    put("</details>\n");
  }
}

}  // namespace moraine::inspect
