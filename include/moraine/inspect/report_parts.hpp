#pragma once
// The parts of a report and how each becomes HTML: text, pictures, legends, tables, results,
// curves. inspect/report.hpp puts them together; what concerns experts is in
// inspect/report_experts.hpp.
#include <algorithm>
#include <cmath>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/core/tensor.hpp>
#include <moraine/inspect/html.hpp>
#include <moraine/inspect/picture.hpp>
#include <moraine/inspect/svg.hpp>
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

namespace detail {

inline void check_picture(const Picture& p, const std::string& what) {
  if (!p.defined() || p.rank() != 3 || p.size(2) != 3 || !p.numel())
    fail(ErrorKind::shape, "report: picture \"" + what + "\" must be (H,W,3)" +
                               (p.defined() ? "; " + str(p.shape()) : "; it is not defined"));
}
/// Cells that begin with a number stand at the right.
inline bool numeric(const std::string& s) {
  if (s == "n/a") return true;
  const std::size_t at = s.find_first_not_of("+-<. ");
  return at != std::string::npos && s[at] >= '0' && s[at] <= '9';
}
inline std::string table(const std::string& name, const std::vector<std::string>& columns,
                         const std::vector<bool>& right, const std::string& body) {
  std::string head;
  for (std::size_t j = 0; j < columns.size(); ++j)
    head += std::string("<th scope=\"col\"") + (right[j] ? " class=\"n\"" : "") + ">" +
            escape(columns[j]) + "</th>";
  return "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"" + escape(name) +
         "\"><table><caption>" + escape(name) + "</caption><thead><tr>" + head +
         "</tr></thead><tbody>\n" + body + "</tbody></table></div>\n";
}

}  // namespace detail

/// Paragraphs, divided by blank lines.
inline std::string render_text(const std::string& text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find("\n\n", at), text.size());
    if (end > at) out += "<p>" + escape(text.substr(at, end - at)) + "</p>\n";
    at = end + 2;
  }
  return out;
}
/// A marked paragraph; nothing for an empty text.
inline std::string render_how(const std::string& text) {
  if (text.empty()) return "";
  return "<div class=\"how\"><b>How to read this</b><p>" + escape(text) + "</p></div>\n";
}
template <class Chart>
std::string render_chart(const Chart& chart) {
  return "<div class=\"chart\">" + svg(chart) + "</div>\n";
}
inline std::string render(const std::vector<ReportFact>& facts) {
  std::string out;
  const auto put = [&](const std::string& text) { out += text; };
  put("<dl class=\"facts\">");
  for (const ReportFact& f : facts)
    put("<div><dt>" + escape(f.name) + "</dt><dd>" + escape(f.value) + "</dd></div>");
  put("</dl>\n");
  return out;
}
inline std::string render(const std::vector<ReportImage>& images) {
  std::string out;
  const auto put = [&](const std::string& text) { out += text; };
  put("<div class=\"pictures\">\n");
  for (const ReportImage& i : images) {
    detail::check_picture(i.pixels, i.title);
    put("<figure><img src=\"" + png_address(i.pixels) + "\" width=\"" +
        std::to_string(i.pixels.size(1)) + "\" height=\"" + std::to_string(i.pixels.size(0)) +
        "\" alt=\"" + escape(i.title + (i.caption.empty() ? "" : ": " + i.caption)) +
        "\"><figcaption><b>" + escape(i.title) + "</b>" +
        (i.caption.empty() ? "" : "<br>" + escape(i.caption)) + "</figcaption></figure>\n");
  }
  put("</div>\n");
  return out;
}
inline std::string render(const std::vector<LegendItem>& items) {
  std::string out;
  const auto put = [&](const std::string& text) { out += text; };
  put("<ul class=\"legend\">");
  for (const LegendItem& i : items)
    put("<li><span class=\"swatch\" style=\"background:" + hex(i.colour) + "\"></span>" +
        escape(i.name) +
        (i.note.empty() ? "" : " <span class=\"note\">" + escape(i.note) + "</span>") + "</li>");
  put("</ul>\n");
  return out;
}
inline std::string render(const ReportTable& t) {
  std::string out = render_how(t.how);
  std::string body;
  for (const auto& row : t.rows) {
    if (row.size() != t.columns.size())
      fail(ErrorKind::shape, "report: a row of table \"" + t.title + "\" has " +
                                 std::to_string(row.size()) + " cells for " +
                                 std::to_string(t.columns.size()) + " columns");
    body += "<tr>";
    for (std::size_t j = 0; j < row.size(); ++j)
      body += j ? "<td" + std::string(detail::numeric(row[j]) ? " class=\"n\"" : "") + ">" +
                      escape(row[j]) + "</td>"
                : "<th scope=\"row\">" + escape(row[j]) + "</th>";
    body += "</tr>\n";
  }
  std::vector<bool> right;
  for (std::size_t j = 0; j < t.columns.size(); ++j)
    right.push_back(j && !t.rows.empty() && detail::numeric(t.rows[0][j]));
  return out + detail::table(t.title, t.columns, right, body);
}
inline std::string render(const ReportCurves& c) {
  return render_how(c.how) + render_chart(c.chart);
}

/// The chart of one column and the table of all.
inline std::string render(const ReportResults& r) {
  std::string out;
  const auto put = [&](const std::string& text) { out += text; };
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
  put(render_how(r.how));

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
  put(render_chart(chart));

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
        body += " <span class=\"spread\">" + fixed(row.spreads[j], 3) + "</span>";
      body += "</td>";
    }
    for (const std::string& s : row.extra)
      body += std::string("<td") + (detail::numeric(s) ? " class=\"n\"" : "") + ">" + escape(s) +
              "</td>";
    body += "</tr>\n";
  }
  std::vector<std::string> columns{"method"};
  columns.insert(columns.end(), r.columns.begin(), r.columns.end());
  columns.insert(columns.end(), r.extra_columns.begin(), r.extra_columns.end());
  std::vector<bool> right(columns.size(), true);
  right[0] = false;
  for (std::size_t j = 0; j < r.extra_columns.size() && !r.rows.empty(); ++j)
    right[1 + m + j] = detail::numeric(r.rows[0].extra[j]);
  put(detail::table(r.title + " (" + r.metric + ")", columns, right, body));
  return out;
}

}  // namespace moraine::inspect
