/* Tables, tabs, plots and trials of a raybench report. Classic script: works from file://, asks for nothing outside. */
(function () {
"use strict";
var root = document.documentElement, single = root.dataset.single === "1", waiting = {}, blocks = {};
root.classList.add("js");

function $(s, at) { return (at || document).querySelector(s); }
function $$(s, at) { return Array.prototype.slice.call((at || document).querySelectorAll(s)); }
function clean(text) {  /* control characters and changes of the writing direction, as escapes */
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, function (c) { return "\\u" + ("000" + c.charCodeAt(0).toString(16)).slice(-4); });
}
function make(tag, attributes, children) {
  var one = document.createElement(tag);
  Object.keys(attributes || {}).forEach(function (k) { one.setAttribute(k, attributes[k]); });
  [].concat(children === undefined ? [] : children).forEach(function (c) { one.append(typeof c === "string" ? clean(c) : c); });
  return one;
}
function draw(tag, attributes, text) {
  var one = document.createElementNS("http://www.w3.org/2000/svg", tag);
  Object.keys(attributes).forEach(function (k) { one.setAttribute(k, attributes[k]); });
  if (text !== undefined) one.textContent = clean(String(text));
  return one;
}

/* ---- data: blocks of compressed JSON, in the page or in data/NAME.js ---- */
window.raybench = { block: function (name, text) { if (waiting[name]) waiting[name](text); } };
function source(name) {
  var here = document.getElementById("block-" + name);
  if (here) return Promise.resolve(here.textContent);
  if (single) return Promise.reject(new Error("no block " + name));
  return new Promise(function (done, failed) {
    waiting[name] = done;
    var file = (root.dataset.blocks || "data/") + name + ".js", script = make("script", { src: file });
    script.onerror = function () { failed(new Error(root.dataset.blocks ? "this page is old: load it again" : file + " is missing beside this page")); };
    document.head.append(script);
  });
}
function unpack(text) {
  if (!window.DecompressionStream) return Promise.reject(new Error("this part needs a browser from 2023 or later"));
  var raw = atob(text.trim()), bytes = new Uint8Array(raw.length);
  for (var i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  var stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).text().then(JSON.parse);
}
function block(name) { return blocks[name] = blocks[name] || source(name).then(unpack); }

/* ---- sort and filter ---- */
function value(cell) {
  var text = cell.dataset.v !== undefined ? cell.dataset.v : cell.textContent.trim();
  var number = parseFloat(text.replace(/^[~*]/, "").replace("−", "-"));
  return isNaN(number) ? text.toLowerCase() : number;
}
function compare(a, b) {
  var na = typeof a === "number", nb = typeof b === "number";
  if (na !== nb) return na ? -1 : 1;  /* what is no number comes last */
  return a < b ? -1 : a > b ? 1 : 0;
}
function sortable(table) {
  $$("thead th", table).forEach(function (head, column) {
    if (head.dataset.nosort !== undefined) return;
    var button = make("button", { type: "button" });
    while (head.firstChild) button.append(head.firstChild);
    head.append(button);
    button.addEventListener("click", function () {
      var up = head.getAttribute("aria-sort") === "ascending" ? false : head.getAttribute("aria-sort") === "descending" ? true : head.dataset.up !== undefined;
      $$("thead th", table).forEach(function (h) { h.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      var body = table.tBodies[0], rows = $$("tr", body).map(function (row, i) { return [value(row.cells[column]), i, row]; });
      rows.sort(function (a, b) {
        var numbers = typeof a[0] === "number" && typeof b[0] === "number", order = compare(a[0], b[0]);
        return (numbers || typeof a[0] === typeof b[0] ? (up ? order : -order) : order) || a[1] - b[1];
      });
      rows.forEach(function (r) { body.append(r[2]); });
    });
  });
}
function refilter(panel) {
  var text = ($("input.filter", panel) || { value: "" }).value.trim().toLowerCase();
  var pressed = $(".pick [aria-pressed=true]", panel), track = pressed ? pressed.dataset.track : "all", shown = 0;
  $$("table.filtered tbody", panel).forEach(function (body) {
    shown = 0;
    $$("tr", body).forEach(function (row) {
      var fits = (track === "all" || !row.dataset.track || row.dataset.track === track) && (!text || row.textContent.toLowerCase().indexOf(text) >= 0);
      row.hidden = !fits;
      if (fits) shown++;
    });
    rerank(body, track);
  });
  var count = $(".count", panel);
  if (count) count.textContent = shown + (shown === 1 ? " row" : " rows");
}
function rerank(body, track) {
  var rows = $$("tr", body).filter(function (r) { return r.dataset.final !== undefined && (track === "all" || r.dataset.track === track); });
  rows.forEach(function (row) {
    var better = rows.filter(function (other) { return parseFloat(other.dataset.final) > parseFloat(row.dataset.final) + 1e-9; }).length;
    var cell = $(".rank", row);
    if (cell) cell.textContent = better + 1;
  });
}
function tabs(list) {
  var buttons = $$("[role=tab]", list);
  function choose(button, focus) {
    buttons.forEach(function (b) {
      var on = b === button;
      b.setAttribute("aria-selected", on);
      b.tabIndex = on ? 0 : -1;
      document.getElementById(b.getAttribute("aria-controls")).hidden = !on;
    });
    if (focus) button.focus();
  }
  buttons.forEach(function (button, i) {
    button.addEventListener("click", function () { choose(button); });
    button.addEventListener("keydown", function (e) {
      var to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: buttons.length - 1 }[e.key];
      if (to === undefined) return;
      e.preventDefault();
      choose(buttons[(to + buttons.length) % buttons.length], true);
    });
  });
  if (buttons.length) choose($("[aria-selected=true]", list) || buttons[0]);
}

/* ---- tips of plots: pointer, touch, and arrow keys on a focused plot ---- */
var tip = make("div", { id: "tip", role: "status", hidden: "" });
function showTip(mark) {
  var box = mark.getBoundingClientRect();
  var name = mark.dataset.s && $('.legend [data-name="' + mark.dataset.s + '"]', mark.closest(".plots"));
  tip.textContent = (name ? name.textContent + ", " : "") + mark.dataset.t;
  tip.hidden = false;
  var x = box.left + box.width / 2 - tip.offsetWidth / 2, y = box.top - tip.offsetHeight - 8;
  tip.style.left = Math.max(4, Math.min(x, innerWidth - tip.offsetWidth - 4)) + "px";
  tip.style.top = (y < 4 ? box.bottom + 8 : y) + "px";
  if (mark.dataset.s) light(mark.closest(".plots") || mark.ownerSVGElement, mark.dataset.s);
}
function hideTip() { tip.hidden = true; $$(".dim").forEach(function (p) { if (!p.dataset.held) unlight(p); }); }
function light(place, series) {
  unlight(place);
  place.classList.add("dim");
  $$("[data-s]", place).forEach(function (m) { if (m.dataset.s === series) m.classList.add("on"); });
}
function unlight(place) { place.classList.remove("dim"); $$(".on", place).forEach(function (m) { m.classList.remove("on"); }); }
function plots(svg) {
  var marks = $$("[data-t]", svg), at = -1;
  if (!marks.length) return;
  svg.setAttribute("tabindex", "0");
  svg.addEventListener("keydown", function (e) {
    var step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key];
    if (e.key === "Escape") hideTip();
    if (!step) return;
    e.preventDefault();
    at = (at + step + marks.length) % marks.length;
    showTip(marks[at]);
  });
  svg.addEventListener("blur", hideTip);
}
document.addEventListener("pointerover", function (e) {
  var mark = e.target.closest && e.target.closest("[data-t]");
  if (mark) showTip(mark); else if (!tip.hidden) hideTip();
});
function legend(list) {
  list.addEventListener("click", function (e) {
    var button = e.target.closest("button");
    if (!button) return;
    var place = list.closest(".plots"), on = button.getAttribute("aria-pressed") !== "true";
    $$("button", list).forEach(function (b) { b.setAttribute("aria-pressed", "false"); });
    button.setAttribute("aria-pressed", on);
    if (on) { place.dataset.held = "1"; light(place, button.dataset.name); } else { delete place.dataset.held; unlight(place); }
  });
}

/* ---- downloads: CSV and JSON are made here from the page's data ---- */
function save(name, type, text) {
  var link = make("a", { href: URL.createObjectURL(new Blob([text], { type: type })), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(function () { URL.revokeObjectURL(link.href); }, 10000);
}
function rowsOf(columns) {
  var names = Object.keys(columns);
  return (columns[names[0]] || []).map(function (_, i) {
    var row = {};
    names.forEach(function (n) { row[n] = columns[n][i] === undefined ? null : columns[n][i]; });
    return row;
  });
}
function csvCell(v) {
  if (v === null || v === undefined) return "";
  var text = String(v);
  if (typeof v === "string" && /^[=+\-@\t\r]/.test(text) && isNaN(Number(text))) text = "'" + text;
  return /[",\n\r]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
}
function everyTrial() {
  return block("index").then(function (index) {
    var n = index.columns.trial_id.length, wanted = [];
    for (var i = 0; i * index.size < n; i++) wanted.push(block("t" + i));
    return Promise.all(wanted).then(function (parts) {
      var names = {}, columns = Object.assign({}, index.columns);
      parts.forEach(function (p) { Object.keys(p.columns).forEach(function (k) { names[k] = 1; }); });
      Object.keys(names).forEach(function (k) {
        columns[k] = [];
        parts.forEach(function (p) { columns[k] = columns[k].concat(p.columns[k] || new Array(p.made.length).fill(null)); });
      });
      return columns;
    });
  });
}
function download(button) {
  var name = button.dataset.table, form = button.dataset.form;
  (name === "trials" ? everyTrial() : block(name).then(function (b) { return b.columns; })).then(function (columns) {
    var names = Object.keys(columns), rows = rowsOf(columns);
    if (form === "json") return save(name + ".json", "application/json", JSON.stringify(rows, null, 1) + "\n");
    var lines = [names.map(csvCell).join(",")].concat(rows.map(function (r) { return names.map(function (n) { return csvCell(r[n]); }).join(","); }));
    save(name + ".csv", "text/csv", lines.join("\n") + "\n");
  }).catch(function (e) { button.after(" " + e.message); });
}

/* ---- the list of trials ---- */
function trialLink(id) { return (single ? "#trial/" : "trial.html#") + id; }
function askedText(get) {
  if (get("speedup_target") !== null) return get("speedup_target") + "x";
  if (get("params_target") !== null) return get("params_target") + "x params";
  if (get("latency_target") !== null) return get("latency_target") + "x latency";
  return get("latency_target_ms") !== null ? get("latency_target_ms") + " ms" : "ratio " + get("ratio");
}
function number(v, digits) { return v === null || v === undefined ? "–" : typeof v === "number" ? v.toFixed(digits) : String(v); }
var COLUMNS = [["trial_id", "trial"], ["status", "status"], ["dataset", "dataset"], ["model", "model"], ["method", "method"], ["strategy", "strategy"], ["speedup_target", "target", 1], ["seed", "seed", 0], ["metric_base", "base, %", 2], ["metric_final", "final, %", 2], ["delta", "Δ, pts", 2], ["speedup", "speed-up", 2], ["params_kept", "kept, %", 1], ["latency_ms", "latency, ms", 3], ["protocol", "protocol"], ["recipe", "recipe"]];
function list(place) {
  block("index").then(function (index) {
    var c = index.columns, n = c.trial_id.length, order = [], page = 0, size = 100, sorted = null, up = true;
    for (var i = 0; i < n; i++) order.push(i);
    var alike = ["protocol", "recipe"].filter(function (name) { return new Set(c[name]).size < 2; });
    function differing(name) { return alike.indexOf(name) < 0; }
    var shown = COLUMNS.filter(function (col) { return differing(col[0]); });
    var filters = ["status", "dataset", "model", "strategy", "protocol", "recipe", "method", "speedup_target"].filter(differing).map(function (name) {
      var values = Array.from(new Set(c[name])).filter(function (v) { return v !== null; }).sort(function (a, b) { return compare(a, b); });
      var select = make("select", {}, [make("option", { value: "" }, "all")].concat(values.map(function (v) { return make("option", { value: String(v) }, name === "speedup_target" ? v + "x" : String(v)); })));
      select.addEventListener("change", function () { page = 0; show(); });
      $(".tools", place).append(make("label", {}, [name === "speedup_target" ? "speed-up" : name, select]));
      return [name, select];
    });
    var text = make("input", { type: "search", placeholder: "trial id" });
    text.addEventListener("input", function () { page = 0; show(); });
    $(".tools", place).append(make("label", {}, ["id", text]));
    var head = make("tr", {}, shown.map(function (col) {
      var button = make("button", { type: "button" }, col[1]), th = make("th", { scope: "col", class: col[2] === undefined ? "l" : "" }, button);
      button.addEventListener("click", function () {
        up = sorted === col[0] ? !up : col[2] === undefined;
        sorted = col[0];
        $$("th", head).forEach(function (h) { h.removeAttribute("aria-sort"); });
        th.setAttribute("aria-sort", up ? "ascending" : "descending");
        var values = c[sorted];
        order.sort(function (a, b) { var x = values[a], y = values[b]; if (x === null || y === null) return (x === null) - (y === null) || a - b; return (up ? 1 : -1) * compare(x, y) || a - b; });
        show();
      });
      return th;
    }));
    var body = make("tbody"), table = make("table", {}, [make("caption", { class: "hide" }, "Trials"), make("thead", {}, head), body]);
    $(".list", place).replaceChildren(table);
    function show() {
      var found = order.filter(function (i) {
        return filters.every(function (f) { return !f[1].value || String(c[f[0]][i]) === f[1].value; }) && (!text.value || c.trial_id[i].indexOf(text.value.trim()) === 0);
      });
      var last = Math.max(0, Math.ceil(found.length / size) - 1);
      page = Math.min(page, last);
      body.replaceChildren.apply(body, found.slice(page * size, page * size + size).map(function (i) {
        return make("tr", {}, shown.map(function (col) {
          var v = c[col[0]][i];
          if (col[0] === "trial_id") return make("th", { scope: "row" }, make("a", { href: trialLink(v) }, v.slice(0, 8)));
          if (col[0] === "status") return make("td", { class: "l " + v }, v);
          if (col[0] === "speedup_target") return make("td", {}, askedText(function (name) { return c[name][i]; }));
          if (col[0] === "params_kept" && v !== null) v *= 100;
          return make("td", { class: col[2] === undefined ? "l" : "" }, (col[0] === "delta" && v > 0 ? "+" : "") + number(v, col[2]));
        }));
      }));
      var back = make("button", { class: "button", type: "button" }, "Previous"), next = make("button", { class: "button", type: "button" }, "Next");
      back.disabled = page === 0; next.disabled = page >= last;
      back.onclick = function () { page--; show(); }; next.onclick = function () { page++; show(); };
      var from = found.length ? page * size + 1 : 0;
      $(".pager", place).replaceChildren(back, next, make("span", { class: "soft", role: "status" }, from + " to " + Math.min(found.length, (page + 1) * size) + " of " + found.length + (found.length < n ? " (" + n + " in all)" : "")));
    }
    show();
  }).catch(function (e) { $(".list", place).textContent = e.message; });
}

/* ---- one trial ---- */
function sums(steps, times) { var at = 0; return steps === null ? null : steps.map(function (s) { at += s; return at / times; }); }
function lineChart(title, lines, low0) {
  var w = innerWidth < 600 ? 320 : 420, h = 250, all = [].concat.apply([], lines.map(function (l) { return l.y; }));
  var low = low0 !== undefined ? low0 : Math.min.apply(null, all), high = Math.max.apply(null, all), xs = Math.max.apply(null, lines.map(function (l) { return l.x[l.x.length - 1]; }));
  var air = (high - low || 1) * 0.05; low -= air; high += air;
  function X(v) { return 42 + (xs > 1 ? (v - 1) / (xs - 1) : 0.5) * (w - 52); }
  function Y(v) { return h - 30 - (v - low) / (high - low) * (h - 72); }
  var svg = draw("svg", { "class": "drawing", role: "img", viewBox: "0 0 " + w + " " + h, "aria-label": title + ": " + lines.map(function (l) { return l.name + " ends at " + l.y[l.y.length - 1]; }).join(", ") });
  var power = Math.pow(10, Math.floor(Math.log10((high - low) / 5))), step = [1, 2, 5, 10].map(function (m) { return m * power; }).filter(function (s) { return s >= (high - low) / 5; })[0];
  for (var v = Math.ceil(low / step) * step; v <= high; v += step) {
    svg.append(draw("polyline", { points: "42," + Y(v) + " " + (w - 10) + "," + Y(v), "class": "s-grid", fill: "none" }));
    svg.append(draw("text", { x: 37, y: Y(v) + 3, "text-anchor": "end", "font-size": 10, "class": "f-soft" }, String(+v.toPrecision(6))));
  }
  [1, Math.round((xs + 1) / 2), xs].filter(function (x, i, a) { return a.indexOf(x) === i; }).forEach(function (x) { svg.append(draw("text", { x: X(x), y: h - 16, "text-anchor": "middle", "font-size": 10, "class": "f-soft" }, x)); });
  svg.append(draw("text", { x: (w + 32) / 2, y: h - 3, "text-anchor": "middle", "font-size": 10, "class": "f-soft" }, "epoch"));
  svg.append(draw("text", { x: 6, y: 10, "font-size": 11, "class": "f-soft" }, title));
  lines.forEach(function (l, k) {
    svg.append(draw("polyline", { points: l.x.map(function (x, i) { return X(x) + "," + Y(l.y[i]); }).join(" "), "class": "s-" + l.c, fill: "none", "stroke-width": 1.6 }));
    l.x.forEach(function (x, i) { svg.append(draw("circle", { cx: X(x), cy: Y(l.y[i]), r: 2.4, "class": "f-" + l.c, "data-t": l.name + "\nepoch " + x + ": " + +l.y[i].toFixed(4) })); });
    svg.append(draw("circle", { cx: 48 + 84 * k, cy: 23, r: 3.5, "class": "f-" + l.c }), draw("text", { x: 55 + 84 * k, y: 26.5, "font-size": 10, "class": "f-ink" }, l.name));
  });
  return svg;
}
function widthChart(names, before, after) {
  var w = innerWidth < 600 ? 320 : 420, row = 15, left = w * 0.36, most = Math.max.apply(null, before), svg = draw("svg", { "class": "drawing", role: "img", viewBox: "0 0 " + w + " " + (names.length * row + 6), "aria-label": "Widths of layers before and after: " + names.map(function (n, i) { return n + " " + before[i] + " to " + after[i]; }).join("; ") });
  names.forEach(function (name, i) {
    var y = 3 + row * i, wide = (w - left - 66) / most, shown = name.length > left / 5.8 ? name.slice(0, left / 13) + "…" + name.slice(-left / 13) : name, said = name + "\n" + before[i] + " to " + after[i] + " channels";
    svg.append(draw("text", { x: left - 5, y: y + 9, "text-anchor": "end", "font-size": 10, "class": "f-ink" }, shown));
    svg.append(draw("rect", { x: left, y: y, width: before[i] * wide, height: 11, rx: 1.5, "class": "f-grid", "data-t": said }), draw("rect", { x: left, y: y, width: after[i] * wide, height: 11, rx: 1.5, "class": "f-c0", "data-t": said }));
    svg.append(draw("text", { x: left + before[i] * wide + 4, y: y + 9, "font-size": 10, "class": "f-soft" }, after[i] + " of " + before[i]));
  });
  return svg;
}
function facts(pairs) {
  var dl = make("dl", { "class": "facts" });
  pairs.forEach(function (p) { if (p[1] !== null && p[1] !== undefined && p[1] !== "") dl.append(make("dt", {}, p[0]), make("dd", {}, p[1] instanceof Node ? p[1] : String(p[1]))); });
  return dl;
}
function card(title, children) { return make("section", { "class": "card" }, [make("h2", {}, title)].concat(children)); }
function trial(place, id) {
  var out = $(".trial", place);
  if (!id) { out.replaceChildren(make("h1", {}, "Trial"), make("p", {}, ["No trial chosen. ", make("a", { href: single ? "#trials" : "trials.html" }, "All trials")])); return; }
  block("index").then(function (index) {
    var ids = index.columns.trial_id, at = ids.findIndex(function (one) { return one.indexOf(id) === 0; });
    if (at < 0) throw new Error("This report has no trial " + id);
    return block("t" + Math.floor(at / index.size)).then(function (b) { showTrial(out, b, at % index.size, ids[at], index.columns, at); });
  }).catch(function (e) { out.replaceChildren(make("p", { role: "alert" }, e.message)); });
}
function showTrial(out, b, i, id, main, at) {
  function get(name) { return main[name] ? main[name][at] : b.columns[name] ? b.columns[name][i] : null; }
  var store = root.dataset.source, quoted = root.dataset.quoted, files = root.dataset.files, metric = get("metric_name") || "metric";
  var asked = askedText(get);
  var parts = [make("p", { "class": "crumb" }, [make("a", { href: single ? "#trials" : "trials.html" }, "Trials"), " / " + id]), make("h1", {}, get("method") + " at " + asked), make("p", { "class": "lead" }, get("model") + " on " + get("dataset") + ", " + get("strategy") + ", protocol " + get("protocol") + ", recipe " + get("recipe") + ", seed " + get("seed"))];
  var left = [];
  if (get("status") !== "ok") left.push(card(get("status") === "failed" ? "Failed" : "Skipped", [facts([["stage", get("stage")], ["error", get("error_type")], ["attempt", get("attempt")], ["traceback", get("traceback_path")]]), make("pre", {}, get("error_message") || get("reason") || "no reason given")]));
  else {
    var stats = make("div", { "class": "stats" });
    [[number(get("metric_final"), 2), "final " + metric + ", %"], [(get("delta") >= 0 ? "+" : "") + number(get("delta"), 2), "points to the base (" + number(get("metric_base"), 2) + ")"], [number(get("speedup"), 2) + "x", "fewer MACs"], [number(100 * get("params_kept"), 1) + " %", "of parameters kept"], [get("latency_ms") === null ? "–" : (+get("latency_ms").toPrecision(3)) + " ms", get("latency_base_ms") === null ? "latency" : "latency, base " + (+get("latency_base_ms").toPrecision(3)) + " ms"]].forEach(function (s) { stats.append(make("div", { "class": "stat" }, [make("b", {}, s[0]), make("span", {}, s[1])])); });
    parts.push(stats);
    if (get("reason")) parts.push(make("p", {}, "Misses the asked speed-up: " + get("reason")));
    var runs = b.curve[i].map(function (n) { return b.curves[n]; }), colours = { base: "c7", sparsify: "c1", finetune: "c0" };
    function lines(k, times) { return runs.map(function (r) { var y = sums(r[k], times); return y && { name: r[0], c: colours[r[0]] || "c3", y: y, x: typeof r[1] === "number" ? y.map(function (_, j) { return j + 1; }) : r[1] }; }).filter(Boolean); }
    if (runs.length) {
      var metrics = lines(2, 100), losses = lines(3, 1000);
      left.push(card("Training", [].concat(metrics.length ? lineChart(metric + " on the selection split, %", metrics) : [], losses.length ? lineChart("training loss", losses) : [])));
    }
    if (b.layer[i] !== null) {
      var layer = b.layers[b.layer[i]];
      left.push(card("Widths of layers, before and after", [widthChart(b.names[layer[0]], layer[1], layer[2])]));
    }
  }
  var again = "raybench show " + id + " --results " + quoted + " --format yaml > cell.yaml\nraybench run cell.yaml --storage reproduced", right = [];
  right.push(card("Repeat it", [make("pre", {}, again)]));
  if (get("artifact")) {
    var take = [make("pre", {}, "raybench export " + id + " --results " + quoted + " -o pruned.safetensors")];
    if (files) take.push(make("p", {}, [].concat.apply([], ["pruned.json", "model.safetensors"].map(function (f) { return [make("a", { href: files + get("artifact") + "/" + f, download: "" }, f), " "]; }))));
    right.push(card("Files to take home", take));
  }
  var m = b.machines[b.made[i]], when = b.times[i];
  right.push(card("Versions and machine", [facts(Object.keys(m).map(function (k) { return [k, m[k]]; }).concat([["started", when[0]], ["finished", when[1]]]))]));
  var every = make("details", {}, [make("summary", {}, "Every column"), facts(Object.keys(main).concat(Object.keys(b.columns)).map(function (k) { return [k, get(k)]; }))]);
  parts.push(make("div", { "class": "grid wide" }, [make("div", { "class": "stack" }, left), make("div", { "class": "stack" }, right)]), every);
  out.replaceChildren.apply(out, parts);
  $$("svg.drawing", out).forEach(plots);
  document.title = get("method") + " at " + asked + ", " + get("model") + " - raybench";
}

/* ---- start ---- */
function route() {
  if (single) {
    var name = decodeURIComponent(location.hash.slice(1)) || "index", id = null;
    if (name.indexOf("trial/") === 0) { id = name.slice(6); name = "trial"; }
    var page = document.getElementById("page-" + name);
    if (!page) { if (name !== "main") page = document.getElementById("page-index"); else return; }
    if (page.dataset.packed !== undefined) {
      delete page.dataset.packed;
      block(page.id).then(function (html) { page.innerHTML = html; route(); }).catch(function (e) { page.textContent = e.message; route(); });
      return;
    }
    $$(".page").forEach(function (p) { p.hidden = p !== page; });
    $$("nav.main a").forEach(function (a) { if (a.dataset.page === page.dataset.nav) a.setAttribute("aria-current", "page"); else a.removeAttribute("aria-current"); });
    open_(page, id);
    scrollTo(0, 0);
  } else $$(".page").forEach(function (p) { open_(p, location.hash.slice(1)); });
}
function open_(page, id) {
  if (page.id === "page-trial") trial(page, id);
  if (page.dataset.opened) return;
  page.dataset.opened = "1";
  $$("td[data-ids]", page).forEach(function (cell) {
    cell.dataset.ids.trim().split(" ").forEach(function (pair) {
      var at = pair.indexOf(":");
      if (at > 0) cell.append(make("a", { href: trialLink(pair.slice(at + 1)), "aria-label": "trial of seed " + pair.slice(0, at) }, pair.slice(0, at)), " ");
    });
  });
  $$("[role=tablist]", page).forEach(tabs);
  $$("table.sorted", page).forEach(sortable);
  $$("svg.drawing", page).forEach(plots);
  $$(".legend", page).forEach(legend);
  $$(".filters", page).forEach(function (panel) {
    var input = $("input.filter", panel);
    if (input) input.addEventListener("input", function () { refilter(panel); });
    $$(".pick button", panel).forEach(function (b) {
      b.addEventListener("click", function () { $$(".pick button", panel).forEach(function (o) { o.setAttribute("aria-pressed", o === b); }); refilter(panel); });
    });
  });
  $$("button[data-table]", page).forEach(function (b) { b.addEventListener("click", function () { download(b); }); });
  if (page.id === "page-trials") list(page);
}
function theme() {
  var button = $(".theme"), kept = null;
  try { kept = localStorage.getItem("raybench-theme"); } catch (e) { /* storage is off */ }
  if (kept) root.dataset.theme = kept;
  button.hidden = false;
  button.addEventListener("click", function () {
    var dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("raybench-theme", root.dataset.theme); } catch (e) { /* storage is off */ }
  });
}
document.addEventListener("DOMContentLoaded", function () { document.body.append(tip); theme(); route(); addEventListener("hashchange", route); });
})();
