// Reports: what is told stands in the page, nothing of it can break out, and pictures come back.
#include <moraine/inspect/report.hpp>
#include <moraine/io/image.hpp>

#include <doctest/doctest.h>
#include <cmath>

using namespace moraine;
using inspect::Picture;

namespace {

std::size_t count(const std::string& s, const std::string& what) {
  std::size_t n = 0;
  for (std::size_t at = s.find(what); at != std::string::npos; at = s.find(what, at + 1)) ++n;
  return n;
}
bool has(const std::string& s, const std::string& what) { return count(s, what) > 0; }

/// Whether every element that is opened is closed, in order; void elements aside.
std::string unbalanced(const std::string& html) {
  static const std::vector<std::string> empty{"meta", "img",  "input", "br",
                                              "line", "rect", "path",  "circle"};
  std::vector<std::string> open;
  for (std::size_t at = html.find('<'); at != std::string::npos; at = html.find('<', at + 1)) {
    if (html[at + 1] == '!') continue;
    std::size_t end = at + 1;
    for (char quote = 0; end < html.size() && (quote || html[end] != '>'); ++end)
      if (quote ? html[end] == quote : html[end] == '"') quote = quote ? char(0) : html[end];
    const bool closing = html[at + 1] == '/';
    const std::size_t from = at + (closing ? 2 : 1);
    const std::string name = html.substr(from, html.find_first_of(" >/\n", from) - from);
    if (closing) {
      if (open.empty() || open.back() != name) return "</" + name + ">";
      open.pop_back();
      continue;
    }
    bool is_empty = html[end - 1] == '/';
    for (const auto& e : empty) is_empty |= e == name && html.compare(end + 1, 7, "<title>") != 0;
    if (!is_empty) open.push_back(name);
    if (name == "script" || name == "style") at = html.find("</" + name, end) - 1;
  }
  return open.empty() ? "" : "<" + open.back() + ">";
}

inspect::RoutingCollector collected() {
  inspect::RoutingCollector c({.classes = 3});
  const Observing listen(c);
  for (std::int64_t t = 0; t < 2; ++t) {
    c.labels(Tensor<std::int64_t>({4}, {0, 1, 1, 2 - t}));
    for (Index l = 0; l < 2; ++l) {
      Scope moe("moe", l), stream("visual");
      // Layer 0 sends everything to expert 1; layer 1 sends class 1 to expert 0.
      observe("logits", l ? Tensor<float>({4, 2}, {0, 1, 1, 0, 1, 0, 0, 1})
                          : Tensor<float>({4, 2}, {0, 1, 0, 1, 0, 1, 0, 1}));
    }
  }
  return c;
}

}  // namespace

TEST_CASE("text is escaped, bytes that are no text are replaced") {
  CHECK(inspect::escape("a<b>&\"'") == "a&lt;b&gt;&amp;&quot;&#39;");
  CHECK(inspect::escape("gr\xc3\xbcn") == "gr\xc3\xbcn");
  CHECK(inspect::escape("x\xff<y") == "x\xef\xbf\xbd&lt;y");
  CHECK(inspect::escape(std::string("n\0l", 3)) == "n\xef\xbf\xbdl");
  CHECK(inspect::escape("") == "");
}

TEST_CASE("numbers as text") {
  CHECK(inspect::fixed(0.36949, 3) == "0.369");
  CHECK(inspect::fixed(-0.0004, 3) == "0.000");
  CHECK(inspect::fixed(NAN, 3) == "n/a");
  CHECK(inspect::brief(12.50) == "12.5");
  CHECK(inspect::brief(100) == "100");
  CHECK(inspect::percent(0.004) == "<1 %");
  CHECK(inspect::percent(0) == "0 %");
  CHECK(inspect::percent(0.184) == "18 %");
  CHECK(inspect::thousands(1234567) == "1,234,567");
  CHECK(inspect::thousands(-999) == "-999");
  CHECK(inspect::thousands(-1000) == "-1,000");
  // RFC 4648, section 10.
  CHECK(inspect::base64("") == "");
  CHECK(inspect::base64("f") == "Zg==");
  CHECK(inspect::base64("fo") == "Zm8=");
  CHECK(inspect::base64("foobar") == "Zm9vYmFy");
  CHECK(inspect::base64("\xff\xfe\xfd") == "//79");
}

TEST_CASE("pictures: classes, experts, ramps, a stretched scene; PNG bytes come back") {
  const Tensor<std::uint8_t> labels({1, 3}, {1, 0, 255});
  const Picture p = inspect::class_picture(labels, {{1, 2, 3}, {4, 5, 6}});
  CHECK(p.values() == std::vector<std::uint8_t>{4, 5, 6, 1, 2, 3, 200, 200, 200});
  const std::string png = png_bytes(p);
  const Image back = parse_png(reinterpret_cast<const std::byte*>(png.data()), png.size(), "p");
  CHECK(back.pixels.as<std::uint8_t>().values() == p.values());
  CHECK(inspect::png_address(p) == "data:image/png;base64," + inspect::base64(png));

  CHECK(inspect::ramp(0) == inspect::Colour{0, 34, 78});
  CHECK(inspect::ramp(1) == inspect::Colour{254, 232, 56});
  CHECK(inspect::ramp(7) == inspect::ramp(1));
  CHECK(inspect::hex(inspect::palette(1)) == "#e69f00");
  CHECK(inspect::is_light({240, 228, 66}));
  CHECK_FALSE(inspect::is_light({0, 114, 178}));

  const Tensor<float> x({1, 1, 4}, {0.1f, 0.25f, 0.3f, NAN});
  const Picture grey = inspect::composite(x, {.bands = {0, 0, 0}, .low = 0, .high = 1});
  CHECK(grey.at({0, 0, 0}) == 0);
  CHECK(grey.at({0, 1, 0}) == 191);
  CHECK(grey.at({0, 2, 2}) == 255);
  CHECK(grey.at({0, 3, 1}) == 200);
  CHECK_THROWS_AS(inspect::composite(x), Error);  // bands 2, 1, 0 of one
  CHECK_NOTHROW(inspect::composite(Tensor<float>::zeros({3, 2, 2})));
}

TEST_CASE("charts: every value is in the text, gaps and nonsense are survived") {
  const std::string lines = inspect::svg(inspect::LineChart{
      "Loss", "step", "nats", {{"a & b", {0, 1, 2, 3}, {4, NAN, 2, 1}}, {"c", {0, 3}, {4, 3}}}});
  CHECK(unbalanced(lines) == "");
  CHECK(has(lines, "a &amp; b"));
  CHECK(count(lines, "<circle") == 5);  // NaN has no point
  CHECK(count(lines, "stroke-width=\"3\"") == 2);
  CHECK(has(lines, ">4</text>"));  // the highest tick
  CHECK_FALSE(has(lines, "nan"));
  CHECK(unbalanced(inspect::svg(inspect::LineChart{})) == "");
  CHECK_THROWS_AS(inspect::svg(inspect::LineChart{"", "", "", {{"x", {1, 2}, {1}}}}), Error);

  const std::string bars = inspect::svg(inspect::BarChart{
      "t", "mIoU", {{"lora", 0.4, 0.05, {0.6, 0.3}}, {"none", NAN, 0, {}}}, {"source", "sun"}});
  CHECK(unbalanced(bars) == "");
  CHECK(has(bars, "0.400 \xc2\xb1 0.050"));
  CHECK(has(bars, "lora, sun: 0.300"));
  CHECK(has(bars, "n/a"));

  const std::string stack =
      inspect::svg(inspect::StackedBars{"load", {"e0", "e1"}, {{"layer 0", {0.25, 0.75}}}});
  CHECK(unbalanced(stack) == "");
  CHECK(has(stack, ">25 %</text>"));
  CHECK(has(stack, ">75 %</text>"));

  const std::string heat = inspect::svg(
      inspect::HeatTable{"h", "class", "expert", {"water"}, {"0", "1"}, {"7"}, {0.125, NAN}, {}});
  CHECK(unbalanced(heat) == "");
  CHECK(has(heat, "water, 0: 12.5 %"));
  CHECK_THROWS_AS(inspect::svg(inspect::HeatTable{"h", "", "", {"a"}, {"b"}, {}, {}, {}}), Error);

  CHECK(inspect::detail::tick_step(1, 5) == doctest::Approx(0.2));
  CHECK(inspect::detail::tick_step(0.07, 5) == doctest::Approx(0.02));
  CHECK(inspect::detail::tick_text(0.6000000001, 0.2) == "0.6");
  CHECK(inspect::detail::tick_text(40, 20) == "40");
}

TEST_CASE("a page: whole, balanced, without a reference to the outside") {
  inspect::Report page("A <title> & more", "\"sub\"");
  page.add_facts({{"size", "4 x 4"}});
  page.section("Scene </h2><script>alert(1)</script>");
  page.add_text("one\n\ntwo <b>");
  page.add_images({{"Scene", Picture::full({2, 2, 3}, 9), "cap<tion"}});
  page.add_legend({{"water", {0, 90, 181}, "12 %"}});
  page.section("Results");
  page.add_results({.title = "all",
                    .columns = {"source", "sun", "mean"},
                    .rows = {{"lora", {0.5, 0.3, 0.4}, {0.01, 0, 0.02}, {"1,000"}},
                             {"linear", {0.4, 0.35, NAN}, {}, {"500"}}},
                    .extra_columns = {"trained"}});
  page.add_table({.title = "t", .columns = {"a", "b"}, .rows = {{"x", "1.5"}}});
  page.add_curves({{"loss", "step", "nats", {{"a", {0, 1}, {1, 0}}}}});
  const auto places = collected().places();
  page.section("Experts");
  std::vector<inspect::ExpertMap> maps;
  for (const auto& p : places) maps.push_back(inspect::expert_map(p, 2, 2));
  page.add_expert_maps({.experts = 2, .maps = maps, .scene = Picture::full({8, 8, 3}, 7)});
  page.add_routing({.places = places, .class_names = {"water", "soil <x>", "trees"}});
  const std::string html = page.html();

  CHECK(unbalanced(html) == "");
  CHECK(html.rfind("<!DOCTYPE html>\n", 0) == 0);
  CHECK(count(html, "<script>") == 1);  // ours
  CHECK(has(html, "A &lt;title&gt; &amp; more"));
  CHECK(has(html, "soil &lt;x&gt;"));
  CHECK(count(html, "<p>one</p>") == 1);
  CHECK(count(html, "src=\"data:image/png;base64,") == 1 + 2 * 3);
  CHECK(count(html, "src=") == 1 + 2 * 3);
  // The namespace of SVG is the only address, and nothing is fetched from it.
  std::string rest = html;
  for (std::size_t at; (at = rest.find("xmlns=\"http://www.w3.org/2000/svg\"")) != rest.npos;)
    rest.erase(at, 35);
  for (const char* outside : {"http:", "https:", "//www", "<link", "@import", "href=\"/"})
    CHECK_MESSAGE(!has(rest, outside), outside);
  CHECK(has(html, "default-src 'none'"));
  CHECK(count(html, "href=\"#s") == 3);
  // Best of each column: lora, linear, lora; what is not there is said.
  CHECK(count(html, "class=\"n best\"") == 3);
  CHECK(has(html, "<td class=\"n best\">0.350"));
  CHECK(has(html, "n/a"));
  // Words by rule: layer 0 has collapsed, and expert 0 of it is idle; layer 1 tells of soil.
  CHECK(has(html, "Collapse: in visual, layer 0, expert 1 handles 100 % of all patches."));
  CHECK(has(html, "fewer than 1 % of the patches reach expert 0."));
  CHECK(has(html, "Experts follow classes most in visual, layer 1"));
  CHECK(count(html, "data-v=\"") == 2);
  CHECK(count(html, "<details") == 2);
  CHECK(page.html() == html);
}

TEST_CASE("a page refuses what does not fit") {
  inspect::Report page("t");
  CHECK_THROWS_AS(page.add_images({{"x", Picture::zeros({2, 2, 4}), ""}}), Error);
  CHECK_THROWS_AS(page.add_images({{"x", Picture(), ""}}), Error);
  CHECK_THROWS_AS(page.add_table({.title = "t", .columns = {"a"}, .rows = {{"1", "2"}}}), Error);
  CHECK_THROWS_AS(page.add_results({.title = "t", .columns = {"a"}, .rows = {{"r", {1, 2}}}}),
                  Error);
  const auto maps = [](Index h) {
    const auto z = Tensor<std::uint8_t>::zeros({h, 2});
    return inspect::ExpertMap{h, "", z, z, z};
  };
  CHECK_THROWS_AS(page.add_expert_maps({.experts = 1, .maps = {maps(2), maps(3)}}), Error);
  CHECK_NOTHROW(page.add_expert_maps({}));
  CHECK_NOTHROW(page.add_routing({}));
}
