"""What the tests of pages ask a browser."""

CONTRAST = """() => {
  const part = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const parse = text => {
    const n = (text.match(/[\\d.]+/g) || []).map(Number);
    const srgb = text.startsWith('color(');
    return { c: n.slice(0, 3).map(v => srgb ? v * 255 : v), a: n.length > 3 ? n[3] : 1 };
  };
  const light = c => 0.2126 * part(c[0]) + 0.7152 * part(c[1]) + 0.0722 * part(c[2]);
  const behind = one => {
    for (let at = one; at; at = at.parentElement) {
      const found = parse(getComputedStyle(at).backgroundColor);
      if (found.a > 0.9) return found.c;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const one of document.querySelectorAll('main *, header *, footer')) {
    const own = [...one.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !one.offsetParent || one.closest('svg') || getComputedStyle(one).clipPath !== 'none') continue;
    const [a, b] = [light(parse(getComputedStyle(one).color).c), light(behind(one))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) poor.push(one.outerHTML.slice(0, 90) + ' ' + contrast.toFixed(2));
  }
  return poor.slice(0, 5);
}"""
