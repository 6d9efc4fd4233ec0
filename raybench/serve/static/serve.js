/* What the served pages add to the report's: fields that depend on others, and messages of requests that failed. */
(function () {
"use strict";
var said = document.createElement("p");
said.id = "said"; said.hidden = true; said.setAttribute("role", "alert");
function say(text) { said.textContent = text; said.hidden = !text; }
function plain(html) { var page = new DOMParser().parseFromString(html, "text/html"); return page.body.textContent.trim(); }
function depend() {
  document.querySelectorAll("[data-when],[data-unless]").forEach(function (part) {
    var pair = (part.dataset.when || part.dataset.unless).split("="), source = document.querySelector("[name=" + pair[0] + "]");
    var shown = source && (source.value === pair[1]) === (part.dataset.when !== undefined);
    part.hidden = !shown;
    part.querySelectorAll("input,select").forEach(function (one) { one.disabled = !shown; });
  });
}
document.addEventListener("DOMContentLoaded", function () {
  document.body.append(said);
  depend();
  document.addEventListener("input", depend);
  document.addEventListener("htmx:oobAfterSwap", depend);
  document.addEventListener("htmx:beforeRequest", function () { say(""); });
  document.addEventListener("htmx:responseError", function (e) { say(plain(e.detail.xhr.responseText) || "The server answered " + e.detail.xhr.status + "."); });
  document.addEventListener("htmx:sendError", function (e) { if (!e.detail.elt.classList.contains("news")) say("The server can't be reached."); });
  var log = document.getElementById("log");
  if (log) { log.scrollTop = log.scrollHeight; log.addEventListener("htmx:sseMessage", function () { log.scrollTop = log.scrollHeight; }); }
});
})();
