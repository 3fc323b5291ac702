/* The playground: ReDGE and friends on three classes, in plain browser code. `_surrogate` formulas as in the Python package.
   The state is the part of the address behind #, so that a setting can be linked: #t1=0.3&num_steps=2&logits=1,0,-1&seed=3 */
"use strict";
(function () {
  const NUM_DRAWS = 2000, SHOWN = 600, WEIGHTS = [1.5, 0.3, 0.8];
  const METHODS = ["redge", "exact_redge", "straight_through", "reinmax", "gumbel_softmax"];
  const DEFAULTS = { method: "redge", t1: 0.5, num_steps: 4, temperature: 0.5, logits: [1, 0, -0.5], seed: 0 };
  const state = { ...DEFAULTS };

  /* ---- numbers ---- */
  function mulberry32(seed) {                       // uniform in [0, 1): 32-bit integer arithmetic, the same everywhere
    let a = seed | 0;
    return function () {
      a = (a + 0x6d2b79f5) | 0;
      let t = Math.imul(a ^ (a >>> 15), 1 | a);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }
  function normal(random) {                         // Box-Muller, cosine branch
    const u = 1 - random(), v = random();
    return Math.sqrt(-2 * Math.log(u)) * Math.cos(2 * Math.PI * v);
  }
  function softmax(a) {
    const top = Math.max(...a), e = a.map((v) => Math.exp(v - top)), sum = e.reduce((s, v) => s + v, 0);
    return e.map((v) => v / sum);
  }
  const dot = (a, b) => a.reduce((s, v, k) => s + v * b[k], 0);
  const covariance = (p, u) => { const mean = dot(p, u); return p.map((v, k) => v * (u[k] - mean)); };
  const oneHot = (k) => [0, 1, 2].map((j) => (j === k ? 1 : 0));
  const loss = (x) => Math.pow(dot(WEIGHTS, x), 3);
  const slope = (x) => { const s = dot(WEIGHTS, x); return WEIGHTS.map((w) => 3 * s * s * w); };
  function pick(p, u) { return u < p[0] ? 0 : u < p[0] + p[1] ? 1 : 2; }

  function grid(method, numSteps, t1) {             // lambda at every evaluation: uniform in alpha, or in lambda
    const top = (1 - t1) / t1;
    if (numSteps === 1) return [top];
    return Array.from({ length: numSteps }, (_, i) => {
      const part = i / (numSteps - 1);
      if (i === numSteps - 1) return top;
      return method === "exact_redge" ? part * top : (part * (1 - t1)) / (1 - part * (1 - t1));
    });
  }

  /* Each: (logits, p, random, lambdas, temperature) -> {hard, soft, gradient}; gradient is the estimator's for the loss at hard. */
  const SAMPLERS = {
    redge(logits, p, random, lambdas) {
      let z = [normal(random), normal(random), normal(random)];
      const nodes = [];
      for (let i = 0; i + 1 < lambdas.length; i++) {
        const step = lambdas[i + 1] - lambdas[i], q = softmax(logits.map((v, k) => v + lambdas[i] * z[k]));
        nodes.push([lambdas[i], step, q]);
        z = z.map((v, k) => v + step * q[k]);
      }
      const last = lambdas[lambdas.length - 1], soft = softmax(logits.map((v, k) => v + last * z[k]));
      const hard = pick(soft, random()), direct = covariance(soft, slope(oneHot(hard)));
      let gradient = direct, adjoint = direct.map((v) => last * v);
      for (const [lambda, step, q] of nodes.reverse()) {
        const v = covariance(q, adjoint).map((a) => step * a);
        gradient = gradient.map((g, k) => g + v[k]);
        adjoint = adjoint.map((a, k) => a + lambda * v[k]);
      }
      return { hard, soft, gradient };
    },
    exact_redge(logits, p, random, lambdas) {
      const hard = pick(p, random()), x = oneHot(hard), last = lambdas[lambdas.length - 1];
      let z = x.map((v) => last * v + normal(random));
      const soft = softmax(logits.map((v, k) => v + last * z[k])), direct = covariance(soft, slope(x));
      let gradient = direct, adjoint = direct.map((v) => last * v);
      const at = (y, lambda) => softmax(logits.map((v, k) => v + lambda * y[k]));
      for (let i = lambdas.length - 2; i >= 0; i--) {   // backwards by Heun steps, the adjoint on the way
        const start = lambdas[i], end = lambdas[i + 1], step = end - start, upper = at(z, end);
        const predicted = at(z.map((v, k) => v - step * upper[k]), start);
        z = z.map((v, k) => v - (step / 2) * (upper[k] + predicted[k]));
        const lower = at(z, start), k1 = covariance(upper, adjoint);
        const k2 = covariance(lower, adjoint.map((a, k) => a + step * end * k1[k]));
        gradient = gradient.map((g, k) => g + (step / 2) * (k1[k] + k2[k]));
        adjoint = adjoint.map((a, k) => a + (step / 2) * (end * k1[k] + start * k2[k]));
      }
      return { hard, soft, gradient };
    },
    straight_through(logits, p, random) {
      const hard = pick(p, random());
      return { hard, soft: p, gradient: covariance(p, slope(oneHot(hard))) };
    },
    reinmax(logits, p, random) {
      const hard = pick(p, random()), x = oneHot(hard), g = slope(x), d = x.map((v, k) => v - p[k]), along = dot(d, g);
      return { hard, soft: p, gradient: covariance(p, g).map((v, k) => (v + d[k] * along) / 2) };
    },
    gumbel_softmax(logits, p, random, lambdas, temperature) {
      const noisy = logits.map((v) => v - Math.log(-Math.log(1 - random() || 1e-300)));
      const hard = noisy.indexOf(Math.max(...noisy)), soft = softmax(noisy.map((v) => v / temperature));
      return { hard, soft, gradient: covariance(soft, slope(oneHot(hard))).map((v) => v / temperature) };
    },
  };

  function simulate(s) {
    const p = softmax(s.logits), random = mulberry32(s.seed), lambdas = grid(s.method, s.num_steps, s.t1);
    const counts = [0, 0, 0], meanSoft = [0, 0, 0], sum = [0, 0, 0], squares = [0, 0, 0], points = [];
    for (let n = 0; n < NUM_DRAWS; n++) {
      const { hard, soft, gradient } = SAMPLERS[s.method](s.logits, p, random, lambdas, s.temperature);
      counts[hard] += 1;
      for (let k = 0; k < 3; k++) { meanSoft[k] += soft[k] / NUM_DRAWS; sum[k] += gradient[k]; squares[k] += gradient[k] ** 2; }
      if (n < SHOWN) points.push([soft, hard]);
    }
    // redge draws its hard sample from soft: the mean of soft is its law with less noise. The others draw from p by construction.
    const law = s.method === "redge" ? meanSoft : p;
    const gradient = sum.map((v) => v / NUM_DRAWS);
    const deviation = squares.map((v, k) => Math.sqrt(Math.max(v / NUM_DRAWS - gradient[k] ** 2, 0)));
    const exact = covariance(p, [0, 1, 2].map((k) => loss(oneHot(k))));
    const tv = law.reduce((t, v, k) => t + Math.abs(v - p[k]) / 2, 0);
    return { p, law, counts, gradient, deviation, exact, tv, points, meanSoft };
  }

  /* ---- page ---- */
  const COLOURS = ["#56b4e9", "#e69f00", "#cc79a7"];    // of the classes: they show on white and on black
  const METHOD_COLOURS = { redge: "#d55e00", exact_redge: "#7f7f7f", straight_through: "#cc79a7", reinmax: "#009e73", gumbel_softmax: "#8a63d2" };
  const svg = (body, w, h, label) => `<svg viewBox="0 0 ${w} ${h}" role="img" aria-label="${label}">${body}</svg>`;

  function triangle(points) {
    const corner = [[150, 14], [20, 240], [280, 240]];
    const at = (s) => [0, 1].map((axis) => s.reduce((t, v, k) => t + v * corner[k][axis], 0).toFixed(1));
    const dots = points.map(([soft, hard]) => { const [x, y] = at(soft); return `<circle cx="${x}" cy="${y}" r="2.6" fill="${COLOURS[hard]}"/>`; });
    const names = corner.map(([x, y], k) => `<text x="${[x + 14, 4, 306][k]}" y="${y + (k ? 18 : 6)}" text-anchor="${k < 2 ? "start" : "end"}">class ${k + 1}</text>`);
    return svg(`<polygon points="${corner.map((c) => c.join(",")).join(" ")}"/>${dots.join("")}${names.join("")}`, 310, 265, "relaxed samples in the simplex");
  }
  function bars(groups, lowest, highest, label) {       // groups: [[name, value, colour, deviation?], …] for every class
    const zero = 20 + (130 * highest) / (highest - lowest), scale = 130 / (highest - lowest);
    let body = `<line x1="10" x2="300" y1="${zero}" y2="${zero}"/>`;
    groups.forEach((group, k) => {
      group.forEach(([name, value, colour, deviation], j) => {
        const x = 22 + k * 96 + j * 38, height = Math.abs(value) * scale, y = value > 0 ? zero - height : zero;
        body += `<rect x="${x}" y="${y.toFixed(2)}" width="32" height="${Math.max(height, 0.5).toFixed(2)}"${colour ? ` fill="${colour}"` : ' class="exact"'}><title>${name}: ${value.toFixed(4)}</title></rect>`;
        if (deviation) {
          const low = zero - (value - deviation) * scale, high = zero - (value + deviation) * scale;
          body += `<line class="whisker" x1="${x + 16}" x2="${x + 16}" y1="${Math.max(high, 4).toFixed(2)}" y2="${Math.min(low, 166).toFixed(2)}"/>`;
        }
        body += `<text x="${x + 16}" y="182" text-anchor="middle">${value.toFixed(2)}</text>`;
      });
      body += `<text x="${57 + k * 96}" y="198" text-anchor="middle">class ${k + 1}</text>`;
    });
    return svg(body, 310, 204, label);
  }

  function render(root) {
    const result = simulate(state), own = METHOD_COLOURS[state.method];
    root.style.setProperty("--method", own);
    const uses = { t1: /redge/.test(state.method), num_steps: /redge/.test(state.method), temperature: state.method === "gumbel_softmax" };
    for (const [key, used] of Object.entries(uses)) root.querySelector(`[data-control="${key}"]`).hidden = !used;
    for (const input of root.querySelectorAll("input")) {
      const value = input.name.startsWith("logit") ? state.logits[+input.name.slice(5)] : state[input.name];
      input.value = value;
      root.querySelector(`output[data-for="${input.name}"]`).textContent = value;
    }
    root.querySelector("select").value = state.method;
    root.querySelector('[data-figure="samples"]').innerHTML = triangle(result.points);
    root.querySelector('[data-figure="law"]').innerHTML = bars(
      [0, 1, 2].map((k) => [["softmax(logits)", result.p[k], ""], ["law of x", result.law[k], own]]), 0, 1, "law of the hard sample");
    const spread = Math.max(0.3, ...result.exact.map(Math.abs), ...result.gradient.map((g, k) => Math.abs(g) + result.deviation[k]));
    root.querySelector('[data-figure="gradient"]').innerHTML = bars(
      [0, 1, 2].map((k) => [["exact", result.exact[k], ""], ["mean", result.gradient[k], own, result.deviation[k]]]), -spread, spread, "gradient");
    const numbers = { p: result.p, law: result.law, tv: result.tv, gradient: result.gradient, deviation: result.deviation, exact: result.exact, counts: result.counts, mean_soft: result.meanSoft };
    root.querySelector('[data-figure="numbers"]').textContent =
      `Total variation between the law of x and softmax(logits): ${result.tv.toFixed(4)}. ` +
      `Hard samples drawn: ${result.counts.join(", ")} of ${NUM_DRAWS}.`;
    root.dataset.result = JSON.stringify(numbers);
  }

  function control(name, label, min, max, step) {
    return `<label data-control="${name}"><span>${label}</span><input type="range" name="${name}" min="${min}" max="${max}" step="${step}"><output data-for="${name}"></output></label>`;
  }
  function writeAddress() {                         // every setting that is used, so that the address is a link to what is seen
    const used = ["t1", "num_steps"].filter(() => /redge/.test(state.method));
    if (state.method === "gumbel_softmax") used.push("temperature");
    const parts = [["method", state.method], ...used.map((key) => [key, state[key]]), ["logits", state.logits.join(",")], ["seed", state.seed]];
    history.replaceState(null, "", "#" + parts.map((part) => part.join("=")).join("&"));
  }
  function readAddress() {
    Object.assign(state, DEFAULTS, { logits: [...DEFAULTS.logits] });
    for (const [key, value] of new URLSearchParams(location.hash.slice(1))) {
      if (key === "method" && METHODS.includes(value)) state.method = value;
      if (key === "logits") { const v = value.split(",").map(Number); if (v.length === 3 && v.every(Number.isFinite)) state.logits = v; }
      if (["t1", "num_steps", "temperature", "seed"].includes(key) && Number.isFinite(Number(value))) state[key] = Number(value);
    }
    state.t1 = Math.min(Math.max(state.t1, 0.1), 1);
    state.num_steps = Math.min(Math.max(Math.round(state.num_steps), 1), 20);
    state.temperature = Math.min(Math.max(state.temperature, 0.1), 2);
  }
  function start(root) {
    readAddress();
    root.innerHTML =
      `<div class="playground-controls"><label><span>estimator</span><select>${METHODS.map((m) => `<option>${m}</option>`).join("")}</select></label>` +
      control("t1", "t1", 0.1, 1, 0.05) + control("num_steps", "num_steps", 1, 20, 1) + control("temperature", "temperature", 0.1, 2, 0.05) +
      [0, 1, 2].map((k) => control(`logit${k}`, `logit ${k + 1}`, -4, 4, 0.1)).join("") + control("seed", "seed", 0, 20, 1) + "</div>" +
      '<div class="playground-figures"><figure><div data-figure="samples"></div><figcaption>Relaxed samples; the colour is the hard sample drawn.</figcaption></figure>' +
      '<figure><div data-figure="law"></div><figcaption>Law: softmax(logits) outlined, that of x filled.</figcaption></figure>' +
      '<figure><div data-figure="gradient"></div><figcaption>Gradient of E[(w · x)³]: exact outlined, mean of the estimator filled, whisker one deviation of a draw.</figcaption></figure></div>' +
      '<p data-figure="numbers" aria-live="polite"></p>';
    root.addEventListener("input", (event) => {
      const { name, value } = event.target;
      if (event.target.tagName === "SELECT") state.method = value;
      else if (name.startsWith("logit")) state.logits[+name.slice(5)] = Number(value);
      else state[name] = Number(value);
      render(root);
      writeAddress();
    });
    window.addEventListener("hashchange", () => { readAddress(); render(root); });
    render(root);
  }
  const begin = () => { const root = document.getElementById("playground"); if (root) start(root); };
  document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", begin) : begin();
})();
