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
#include <moraine/core/config.hpp>
#include <moraine/inspect/html.hpp>
#include <moraine/inspect/picture.hpp>
#include <moraine/inspect/report_experts.hpp>
#include <moraine/inspect/report_parts.hpp>
#include <moraine/inspect/report_style.hpp>
#include <moraine/io/file.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moraine::inspect {

class Report {
 public:
  explicit Report(std::string t, std::string sub = "")
      : title(std::move(t)), subtitle(std::move(sub)) {}
  std::string title, subtitle;
  std::string footer = "Made by moraine " MORAINE_VERSION ". This page needs no network.";

  /// Everything added afterwards stands in this section; before the first there is no heading.
  void section(const std::string& name) { sections_.push_back({name, ""}); }
  /// Paragraphs, divided by blank lines.
  void add_text(const std::string& text) { put(render_text(text)); }
  /// A marked paragraph: how to read what follows.
  void add_how(const std::string& text) { put(render_how(text)); }
  /// A few numbers in large type.
  void add_facts(const std::vector<ReportFact>& facts) { put(render(facts)); }
  void add_images(const std::vector<ReportImage>& images) { put(render(images)); }
  void add_legend(const std::vector<LegendItem>& items) { put(render(items)); }
  void add_table(const ReportTable& t) { put(render(t)); }
  /// LineChart, BarChart, StackedBars or HeatTable.
  template <class Chart>
  void add_chart(const Chart& chart) {
    put(render_chart(chart));
  }
  void add_curves(const ReportCurves& c) { put(render(c)); }
  void add_results(const ReportResults& r) { put(render(r)); }
  void add_expert_maps(const ReportExpertMaps& m) { put(render(m)); }
  void add_routing(const ReportRouting& r) { put(render(r)); }

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
    if (sections_.empty()) sections_.emplace_back();
    sections_.back().body += s;
  }
  std::vector<Section> sections_;
};

}  // namespace moraine::inspect
