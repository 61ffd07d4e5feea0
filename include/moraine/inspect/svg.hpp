#pragma once
// Four charts as SVG text: lines, horizontal bars with spread, stacked bars, a table of shades.
// They stand alone as files and inline in inspect/report.hpp. Text and axes take the colour of the
// page (currentColor), series the palette of Okabe and Ito; nothing is told by colour alone: lines
// differ in dashes and are named at their ends, bars carry their numbers.
#include <algorithm>
#include <cmath>
#include <limits>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/inspect/html.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moraine::inspect {

/// Points of a line in order; a value that is not finite leaves a gap.
struct Series {
  std::string name;
  std::vector<double> x, y;
  Index style = -1;     ///< colour and dashes by number; -1: by position
  bool dashed = false;  ///< for the control that belongs to the line of the same style
};
struct LineChart {
  std::string title, x_label, y_label;
  std::vector<Series> series;
  bool from_zero = false;  ///< the vertical axis begins at 0
};

/// A bar with its spread (one standard deviation; 0: none), and marks that belong to it.
struct Bar {
  std::string label;
  double value = 0, spread = 0;
  std::vector<double> marks;  ///< one for each of BarChart::mark_names
};
struct BarChart {
  std::string title, value_label;
  std::vector<Bar> bars;
  std::vector<std::string> mark_names;
};

/// Each bar is divided into parts that sum to one.
struct StackedBars {
  std::string title;
  std::vector<std::string> parts;
  struct Row {
    std::string label;
    std::vector<double> shares;
  };
  std::vector<Row> rows;
};

/// Cells shaded by a value 0..1.
struct HeatTable {
  std::string title, row_title, column_title;
  std::vector<std::string> rows, columns, notes;  ///< notes: one for each row, at its end, or none
  std::vector<double> values;                     ///< (rows,columns), row by row; NaN: empty
  std::vector<Colour> column_colours;             ///< a dot in each head; empty: none
};

namespace detail {

/// Grows the text of a chart; sizes are in the units of its view, about pixels on a page 900 wide.
class Svg {
 public:
  static constexpr double letter = 17;  ///< size of the letters
  Svg(double width, double height, const std::string& title) {
    out_ = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + brief(width) + " " +
           brief(height) + "\" width=\"" + brief(width) + "\" height=\"" + brief(height) +
           "\" role=\"img\" aria-label=\"" + escape(title) +
           "\" font-family=\"system-ui,'Segoe UI',Roboto,'Noto Sans','DejaVu Sans',Arial,"
           "sans-serif\" font-size=\"" +
           brief(letter) + "\" fill=\"currentColor\">\n<title>" + escape(title) + "</title>\n";
  }
  /// About as wide as it will be drawn: letters are counted, not measured.
  static double width_of(const std::string& s) {
    double n = 0;
    for (const char c : s) n += (static_cast<unsigned char>(c) & 0xc0) != 0x80 ? 1 : 0;
    return n * letter * 0.56;
  }
  void text(double x, double y, const std::string& s, const char* anchor = "start",
            const std::string& more = "") {
    out_ += "<text x=\"" + brief(x) + "\" y=\"" + brief(y) + "\" text-anchor=\"" + anchor + "\"" +
            (more.empty() ? "" : " " + more) + ">" + escape(s) + "</text>\n";
  }
  void line(double x0, double y0, double x1, double y1, const std::string& more) {
    out_ += "<line x1=\"" + brief(x0) + "\" y1=\"" + brief(y0) + "\" x2=\"" + brief(x1) +
            "\" y2=\"" + brief(y1) + "\" " + more + "/>\n";
  }
  /// `hint` shows when the pointer rests on it.
  void box(double x, double y, double w, double h, const std::string& more,
           const std::string& hint = "") {
    out_ += "<rect x=\"" + brief(x) + "\" y=\"" + brief(y) + "\" width=\"" + brief(w) +
            "\" height=\"" + brief(h) + "\" " + more +
            (hint.empty() ? "/>\n" : "><title>" + escape(hint) + "</title></rect>\n");
  }
  void raw(const std::string& s) { out_ += s; }
  std::string finish() { return std::move(out_) + "</svg>\n"; }

 private:
  std::string out_;
};

/// The step 1, 2 or 5 times a power of ten that gives about `count` ticks over a span.
inline double tick_step(double span, int count) {
  if (!(span > 0)) return 1;
  const double raw = span / count, power = std::pow(10, std::floor(std::log10(raw)));
  const double f = raw / power;
  return power * (f <= 1 ? 1 : f <= 2 ? 2 : f <= 5 ? 5 : 10);
}
inline std::string tick_text(double v, double step) {
  const int digits = std::max(0, static_cast<int>(-std::floor(std::log10(step) + 1e-9)));
  return fixed(v, std::min(digits, 8));
}

/// Line colours: those of the palette that keep enough contrast on white and on dark paper.
inline std::string line_colour(std::size_t i) {
  constexpr int order[] = {0, 6, 2, 3, 5, 1, 7};
  return hex(palette(order[i % 7]));
}
inline const char* dashes(std::size_t i) {
  constexpr const char* kinds[] = {"", "9 5", "2 5", "12 4 2 4", "5 3"};
  return kinds[i % 5];
}
inline constexpr const char* faint = "stroke=\"currentColor\" stroke-opacity=\".18\"";

}  // namespace detail

inline std::string svg(const LineChart& c) {
  using detail::Svg;
  double x0 = std::numeric_limits<double>::infinity(), x1 = -x0, y0 = x0, y1 = -x0, names = 0;
  for (const Series& s : c.series) {
    if (s.x.size() != s.y.size())
      fail(ErrorKind::shape, "line chart: " + s.name + " has " + std::to_string(s.x.size()) +
                                 " x and " + std::to_string(s.y.size()) + " y");
    for (std::size_t i = 0; i < s.x.size(); ++i)
      if (std::isfinite(s.x[i]) && std::isfinite(s.y[i]))
        x0 = std::min(x0, s.x[i]), x1 = std::max(x1, s.x[i]), y0 = std::min(y0, s.y[i]),
        y1 = std::max(y1, s.y[i]);
    names = std::max(names, Svg::width_of(s.name));
  }
  if (x1 < x0) x0 = y0 = 0, x1 = y1 = 1;
  if (c.from_zero) y0 = std::min(y0, 0.0), y1 = std::max(y1, 0.0);
  if (x1 == x0) x0 -= 0.5, x1 += 0.5;
  if (y1 == y0) y0 -= 0.5, y1 += 0.5;
  const double step_y = detail::tick_step(y1 - y0, 5), step_x = detail::tick_step(x1 - x0, 7);
  y0 = std::floor(y0 / step_y + 1e-9) * step_y, y1 = std::ceil(y1 / step_y - 1e-9) * step_y;
  const double width = 900, height = 400, left = 84, top = 48, bottom = height - 62,
               right = width - names - 34;
  const auto px = [&](double x) { return left + (x - x0) / (x1 - x0) * (right - left); };
  const auto py = [&](double y) { return bottom - (y - y0) / (y1 - y0) * (bottom - top); };
  Svg out(width, height, c.title);
  out.text(left - 64, 24, c.title, "start", "font-weight=\"600\"");
  for (double y = y0; y <= y1 + step_y / 2; y += step_y) {
    out.line(left, py(y), right, py(y), detail::faint);
    out.text(left - 9, py(y) + 6, detail::tick_text(y, step_y), "end");
  }
  for (double x = std::ceil(x0 / step_x - 1e-9) * step_x; x <= x1 + step_x * 1e-6; x += step_x) {
    out.line(px(x), bottom, px(x), bottom + 6, "stroke=\"currentColor\"");
    out.text(px(x), bottom + 25, detail::tick_text(x, step_x), "middle");
  }
  out.line(left, bottom, right, bottom, "stroke=\"currentColor\"");
  out.text((left + right) / 2, height - 10, c.x_label, "middle");
  const std::string at = brief(18) + "," + brief((top + bottom) / 2);
  out.raw("<text transform=\"translate(" + at + ") rotate(-90)\" text-anchor=\"middle\">" +
          escape(c.y_label) + "</text>\n");

  const auto style = [&](std::size_t k) {
    return c.series[k].style < 0 ? k : static_cast<std::size_t>(c.series[k].style);
  };
  struct End {
    double y;
    std::size_t series;
  };
  std::vector<End> ends;
  for (std::size_t k = 0; k < c.series.size(); ++k) {
    const Series& s = c.series[k];
    std::string path;
    bool open = false;
    double last = std::numeric_limits<double>::quiet_NaN();
    for (std::size_t i = 0; i < s.x.size(); ++i) {
      const bool good = std::isfinite(s.x[i]) && std::isfinite(s.y[i]);
      if (good) path += (open ? "L" : "M") + brief(px(s.x[i])) + " " + brief(py(s.y[i]));
      if (good) last = py(s.y[i]);
      open = good;
    }
    const std::string dash = s.dashed ? "4 6" : s.style >= 0 ? "" : detail::dashes(k);
    out.raw("<path d=\"" + path + "\" fill=\"none\" stroke=\"" + detail::line_colour(style(k)) +
            "\" stroke-width=\"3\" stroke-linejoin=\"round\"" +
            (dash.empty() ? "" : " stroke-dasharray=\"" + dash + "\"") + "><title>" +
            escape(s.name) + "</title></path>\n");
    if (s.x.size() <= 40)
      for (std::size_t i = 0; i < s.x.size(); ++i)
        if (std::isfinite(s.x[i]) && std::isfinite(s.y[i]))
          out.raw("<circle cx=\"" + brief(px(s.x[i])) + "\" cy=\"" + brief(py(s.y[i])) +
                  "\" r=\"4.5\" fill=\"" + detail::line_colour(style(k)) + "\"><title>" +
                  escape(s.name + ": " + brief(s.x[i]) + ", " + fixed(s.y[i], 3)) +
                  "</title></circle>\n");
    if (std::isfinite(last)) ends.push_back({last, k});
  }
  // Names stand at the ends of their lines, pushed apart where they would touch.
  std::stable_sort(ends.begin(), ends.end(), [](const End& a, const End& b) { return a.y < b.y; });
  std::vector<double> at_y;
  for (const End& e : ends) at_y.push_back(at_y.empty() ? e.y : std::max(e.y, at_y.back() + 21));
  double low = bottom;
  for (std::size_t i = at_y.size(); i-- > 0; low = at_y[i] - 21) at_y[i] = std::min(at_y[i], low);
  for (std::size_t i = 0; i < ends.size(); ++i) {
    const std::string colour = detail::line_colour(style(ends[i].series));
    out.line(right + 3, ends[i].y, right + 16, at_y[i], "stroke=\"" + colour + "\"");
    out.text(right + 20, at_y[i] + 6, c.series[ends[i].series].name);
  }
  return out.finish();
}

inline std::string svg(const BarChart& c) {
  using detail::Svg;
  double names = 0, most = 0, least = 0;
  for (const Bar& b : c.bars) {
    names = std::max(names, Svg::width_of(b.label));
    const auto see = [&](double v) {
      if (std::isfinite(v)) most = std::max(most, v), least = std::min(least, v);
    };
    see(b.value + b.spread), see(b.value - b.spread);
    for (double m : b.marks) see(m);
  }
  if (most == least) most = least + 1;
  const double step = detail::tick_step(most - least, 6);
  most = std::ceil(most / step - 1e-9) * step, least = std::floor(least / step + 1e-9) * step;
  const double legend = c.mark_names.empty() ? 0 : 30;
  const double width = 900, row = 40, left = names + 20, right = width - 160, top = 46 + legend,
               bottom = top + row * static_cast<double>(c.bars.size()), height = bottom + 64;
  const auto px = [&](double v) { return left + (v - least) / (most - least) * (right - left); };
  const auto mark = [](std::size_t k, double x, double y, const std::string& hint) {
    // Shapes differ as well as colours: the first is a diamond, all others are dots.
    const std::string end =
        " stroke=\"currentColor\" stroke-width=\"1.2\"><title>" + escape(hint) + "</title></";
    if (k == 0)
      return "<path d=\"M" + brief(x) + " " + brief(y - 8) + "l8 8l-8 8l-8 -8z\" fill=\"" +
             hex(palette(1)) + "\"" + end + "path>\n";
    return "<circle cx=\"" + brief(x) + "\" cy=\"" + brief(y) + "\" r=\"5\" fill=\"" +
           hex(palette(4)) + "\"" + end + "circle>\n";
  };
  Svg out(width, height, c.title);
  out.text(8, 24, c.title, "start", "font-weight=\"600\"");
  if (!c.mark_names.empty()) {
    out.raw(mark(0, 18, 50, c.mark_names[0]));
    out.text(34, 56, c.mark_names[0]);
    const double x = 58 + Svg::width_of(c.mark_names[0]);
    if (c.mark_names.size() > 1) {
      std::string others = c.mark_names[1];
      for (std::size_t k = 2; k < c.mark_names.size(); ++k) others += ", " + c.mark_names[k];
      out.raw(mark(1, x, 50, others));
      out.text(x + 14, 56, others);
    }
  }
  for (double v = least; v <= most + step / 2; v += step) {
    out.line(px(v), top, px(v), bottom, detail::faint);
    out.text(px(v), bottom + 24, detail::tick_text(v, step), "middle");
  }
  out.text((left + right) / 2, height - 10, c.value_label, "middle");
  for (std::size_t i = 0; i < c.bars.size(); ++i) {
    const Bar& b = c.bars[i];
    const double y = top + row * static_cast<double>(i) + row / 2;
    out.text(left - 10, y + 6, b.label, "end");
    if (!std::isfinite(b.value)) {
      out.text(left + 6, y + 6, "n/a");
      continue;
    }
    const double zero = px(std::clamp(0.0, least, most));
    const bool spread = std::isfinite(b.spread) && b.spread > 0;
    const std::string number =
        fixed(b.value, 3) + (spread ? " \xc2\xb1 " + fixed(b.spread, 3) : "");
    out.box(std::min(zero, px(b.value)), y - 13, std::abs(px(b.value) - zero), 26,
            "rx=\"2\" fill=\"" + hex(palette(0)) + "\"", b.label + ": " + number);
    if (spread) {
      const double a = px(b.value - b.spread), z = px(b.value + b.spread);
      out.line(a, y, z, y, "stroke=\"currentColor\" stroke-width=\"2.5\"");
      for (const double x : {a, z})
        out.line(x, y - 7, x, y + 7, "stroke=\"currentColor\" stroke-width=\"2.5\"");
    }
    for (std::size_t k = b.marks.size(); k-- > 0;)
      if (std::isfinite(b.marks[k])) {
        const std::string name = k < c.mark_names.size() ? c.mark_names[k] : "";
        out.raw(mark(k, px(b.marks[k]), y, b.label + ", " + name + ": " + fixed(b.marks[k], 3)));
      }
    out.text(right + 16, y + 6, number, "start", "font-weight=\"600\"");
  }
  out.line(px(std::clamp(0.0, least, most)), top, px(std::clamp(0.0, least, most)), bottom,
           "stroke=\"currentColor\"");
  return out.finish();
}

inline std::string svg(const StackedBars& c) {
  using detail::Svg;
  double names = 0;
  for (const auto& r : c.rows) names = std::max(names, Svg::width_of(r.label));
  const double width = 900, row = 38, left = names + 20, right = width - 16, top = 84,
               bottom = top + row * static_cast<double>(c.rows.size()), height = bottom + 34;
  Svg out(width, height, c.title);
  out.text(8, 24, c.title, "start", "font-weight=\"600\"");
  double x = 8;
  for (std::size_t k = 0; k < c.parts.size(); ++k) {
    if (x + 34 + Svg::width_of(c.parts[k]) > width) break;  // the bars name the rest by number
    out.box(x, 44, 18, 18,
            "rx=\"2\" stroke=\"currentColor\" stroke-opacity=\".5\" fill=\"" +
                hex(palette(static_cast<Index>(k))) + "\"");
    out.text(x + 25, 59, c.parts[k]);
    x += 46 + Svg::width_of(c.parts[k]);
  }
  for (std::size_t i = 0; i < c.rows.size(); ++i) {
    const auto& r = c.rows[i];
    const double y = top + row * static_cast<double>(i);
    out.text(left - 10, y + 22, r.label, "end");
    double at = left;
    for (std::size_t k = 0; k < r.shares.size(); ++k) {
      const double w = std::max(0.0, r.shares[k]) * (right - left);
      const Colour colour = palette(static_cast<Index>(k));
      const std::string part = k < c.parts.size() ? c.parts[k] : std::to_string(k);
      if (w > 0)
        out.box(at, y, w, row - 8,
                "fill=\"" + hex(colour) + "\" stroke=\"#fff\" stroke-width=\".8\"",
                r.label + ", " + part + ": " + fixed(100 * r.shares[k], 1) + " %");
      if (w > 44)
        out.text(at + w / 2, y + 21, percent(r.shares[k]), "middle",
                 std::string("pointer-events=\"none\" font-size=\"15\" fill=\"") +
                     (is_light(colour) ? "#111" : "#fff") + "\"");
      at += w;
    }
  }
  out.text(left, bottom + 20, "0 %");
  out.text(right, bottom + 20, "100 %", "end");
  return out.finish();
}

inline std::string svg(const HeatTable& c) {
  using detail::Svg;
  const std::size_t n = c.rows.size(), m = c.columns.size();
  if (c.values.size() != n * m)
    fail(ErrorKind::shape, "heat table: " + std::to_string(n) + " rows and " + std::to_string(m) +
                               " columns need " + std::to_string(n * m) + " values; " +
                               std::to_string(c.values.size()));
  double names = Svg::width_of(c.row_title), notes = 0;
  for (const auto& s : c.rows) names = std::max(names, Svg::width_of(s));
  for (const auto& s : c.notes) notes = std::max(notes, Svg::width_of(s) + 20);
  const double left = names + 20, cell_h = 34, top = 102,
               cell_w = std::clamp(
                   (900 - left - notes) / static_cast<double>(std::max<std::size_t>(m, 1)), 46.0,
                   110.0);
  const double width = std::max(900.0, left + cell_w * static_cast<double>(m) + notes),
               height = top + cell_h * static_cast<double>(n) + 10;
  Svg out(width, height, c.title);
  out.text(8, 24, c.title, "start", "font-weight=\"600\"");
  out.text(left, 60, c.column_title);
  out.text(left - 10, top - 12, c.row_title, "end");
  for (std::size_t j = 0; j < m; ++j) {
    const double x = left + cell_w * (static_cast<double>(j) + 0.5);
    const bool dot = j < c.column_colours.size();
    if (dot)
      out.box(x - 22, top - 27, 16, 16,
              "rx=\"2\" stroke=\"currentColor\" stroke-opacity=\".5\" fill=\"" +
                  hex(c.column_colours[j]) + "\"");
    out.text(dot ? x : x, top - 12, c.columns[j], dot ? "start" : "middle");
  }
  for (std::size_t i = 0; i < n; ++i) {
    const double y = top + cell_h * static_cast<double>(i);
    out.text(left - 10, y + 23, c.rows[i], "end");
    for (std::size_t j = 0; j < m; ++j) {
      const double v = c.values[i * m + j], x = left + cell_w * static_cast<double>(j);
      if (!std::isfinite(v)) continue;
      const Colour colour = ramp(v);
      out.box(x, y, cell_w - 2, cell_h - 2, "fill=\"" + hex(colour) + "\"",
              c.rows[i] + ", " + c.columns[j] + ": " + fixed(100 * v, 1) + " %");
      out.text(x + cell_w / 2 - 1, y + 22, percent(v), "middle",
               std::string("pointer-events=\"none\" font-size=\"15\" fill=\"") +
                   (is_light(colour) ? "#111" : "#fff") + "\"");
    }
    if (i < c.notes.size())
      out.text(left + cell_w * static_cast<double>(m) + 8, y + 23, c.notes[i]);
  }
  return out.finish();
}

}  // namespace moraine::inspect
