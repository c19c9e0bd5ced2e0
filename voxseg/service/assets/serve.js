// The page of `voxseg serve`: takes files, shows how their job goes on, and what came of it. Whatever comes from the
// server or a file is put in as text, never as HTML.
(() => {
  "use strict";
  const find = (id) => document.getElementById(id);
  const SECTIONS = ["token", "start", "work", "failed", "done"];
  const STAGES = {
    starting: "Starting", reading: "Reading", preparing: "Preparing", network: "Segmenting", restoring: "Back to the scan's grid",
    writing: "Writing", drawing: "Drawing", page: "Making the viewer's page",
  };
  const MEANINGS = {
    "_seg.nii.gz": "labels in the scan's grid", "_volumes.tsv": "volumes", "_qc.png": "picture", "_seg.json": "how it came about",
    "_report.html": "page with the viewer", "_seg.dcm": "DICOM-SEG", "_qc.dcm": "picture as DICOM",
  };
  const EVERY = 400; // milliseconds between questions about a job
  let about = null;
  let files = new Map(); // image -> File[], of the job at hand
  let job = null; // its id
  let request = null; // the upload under way
  let called = ""; // what the sender calls the scan; the server is not told

  const show = (name) => SECTIONS.forEach((one) => (find(one).hidden = one !== name));
  const make = (tag, text = "", properties = {}) => Object.assign(document.createElement(tag), { textContent: text }, properties);
  const size = (bytes) => (bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${+(bytes / 1e6).toFixed(1)} MB`);
  const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
  const path = (...parts) => ["api", "jobs", ...parts.map(encodeURIComponent)].join("/");

  // The answer as JSON; what the server refuses is thrown as it tells it: what, problem, remedy.
  async function ask(address, options = {}) {
    let answer;
    try {
      answer = await fetch(address, { cache: "no-store", ...options });
    } catch {
      throw { status: 0, problem: "The server does not answer", remedy: "Is it still running?" };
    }
    if (answer.ok) return answer.status === 204 ? null : answer.json();
    throw { status: answer.status, ...(await answer.json().catch(() => ({ problem: `The server says ${answer.status}` }))) };
  }

  function fail(error, name = called) {
    if (error.status === 401) return show("token");
    find("failed-name").textContent = name || "That did not work";
    find("failed-problem").textContent = sentence(`${subject(error.what)} ${error.problem}`.trim());
    find("failed-remedy").textContent = sentence(error.remedy);
    const list = find("series-list");
    list.replaceChildren();
    for (const one of error.series ?? []) {
      const words = [`Series ${one.series}`, one.description, one.note, one.modality, one.layout].filter(Boolean).join(" · ");
      const button = make("button", words, { type: "button" });
      button.addEventListener("click", () => send(String(one.series)));
      list.append(make("li"));
      list.lastChild.append(button);
    }
    // Files are at hand unless the page was loaded anew since.
    find("series").hidden = !(error.series && files.size);
    if (error.series && files.size) find("failed-remedy").textContent = "";
    show("failed");
    forget();
  }

  // The server calls every upload "scan".
  const subject = (what = "") => (["upload", "server", "job"].includes(what) ? `the ${what}` : what.replace(/^scan(\.[a-z]+)*/, "the scan"));
  const sentence = (text) => (text ? text[0].toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".") : "");

  function forget() {
    job = null;
    history.replaceState(null, "", location.pathname);
  }

  // --- taking files ---

  function slot(image, alone) {
    const box = make("div", "", { className: alone ? "drop" : "drop small" });
    box.dataset.image = image;
    const state = make("p", "a file, a zip archive or a folder of DICOM", { className: "note" });
    const inputs = make("div", "", { className: "row" });
    for (const [words, folder] of [["Choose a file", false], ["Choose a folder", true]]) {
      const input = make("input", "", { type: "file", multiple: true, webkitdirectory: folder, id: `${image}-${folder ? "folder" : "file"}` });
      const label = make("label", words, { htmlFor: input.id, className: folder ? "button" : "button main" });
      input.addEventListener("change", () => {
        take(image, [...input.files], folder);
        input.value = "";
      });
      inputs.append(input, label);
    }
    box.append(make("h2", alone ? "Drop a scan here" : `Drop ${image} here`), state, inputs);
    let depth = 0; // enter and leave come for each element inside
    box.addEventListener("dragenter", (event) => {
      event.preventDefault();
      depth += 1;
      box.classList.add("over");
    });
    box.addEventListener("dragover", (event) => {
      event.preventDefault();
      event.dataTransfer.dropEffect = "copy";
    });
    box.addEventListener("dragleave", () => {
      depth -= 1;
      if (depth <= 0) box.classList.remove("over");
    });
    box.addEventListener("drop", async (event) => {
      event.preventDefault();
      depth = 0;
      box.classList.remove("over");
      const dropped = await contents(event.dataTransfer);
      take(image, dropped.files, dropped.folder);
    });
    return box;
  }

  // Files that were dropped, those in folders too.
  async function contents(transfer) {
    const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    if (!entries.length) return { files: [...transfer.files], folder: false };
    const found = [];
    const walk = async (entry) => {
      if (entry.isFile) {
        if (!entry.name.startsWith(".")) found.push(await new Promise((done, failed) => entry.file(done, failed)));
        return;
      }
      const reader = entry.createReader();
      for (;;) { // it gives a hundred at a time
        const some = await new Promise((done, failed) => reader.readEntries(done, failed));
        if (!some.length) return;
        for (const one of some) await walk(one);
      }
    };
    for (const entry of entries) await walk(entry);
    return { files: found, folder: entries.some((entry) => entry.isDirectory), name: entries[0].name };
  }

  function take(image, given, folder) {
    const taken = folder ? given.filter((file) => !file.name.startsWith(".")) : given;
    if (!taken.length) return;
    files.set(image, taken);
    const parent = taken[0].webkitRelativePath?.split("/")[0];
    const name = taken.length === 1 ? taken[0].name : parent || `${taken.length} files`;
    if (image === about.images[0]) called = name;
    const box = document.querySelector(`.drop[data-image="${CSS.escape(image)}"]`);
    box.classList.add("filled");
    box.querySelector(".note").textContent = name;
    const missing = about.images.filter((one) => !files.has(one));
    find("send").hidden = missing.length > 0 || about.images.length === 1;
    if (about.images.length === 1) send();
  }

  function restart() {
    forget();
    files = new Map();
    called = "";
    find("send").hidden = true;
    find("slots").replaceChildren(...about.images.map((image) => slot(image, about.images.length === 1)));
    show("start");
  }

  // --- sending ---

  function send(series = "") {
    const total = [...files.values()].flat().reduce((sum, file) => sum + file.size, 0);
    if (total > about.max_upload) {
      const problem = `is larger (${size(total)}) than the ${size(about.max_upload)} that this server takes`;
      return fail({ what: "upload", problem, remedy: "send a smaller file" });
    }
    const form = new FormData();
    if (series) form.append("series", series);
    // Names stay here: all that the server has to know is in their ends.
    for (const [image, some] of files) for (const file of some) form.append(image, file, "scan" + (ending(file.name) ?? ""));
    find("work-name").textContent = called;
    progress(0, `Sending ${size(total)}`);
    show("work");
    request = new XMLHttpRequest(); // fetch does not tell how much has been sent
    request.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) progress(event.loaded / event.total, `Sending ${size(event.loaded)} of ${size(event.total)}`);
    });
    request.addEventListener("load", () => {
      let told = {};
      try {
        told = JSON.parse(request.responseText);
      } catch { /* not from us */ }
      const status = request.status;
      request = null;
      if (status !== 202) return fail({ status, problem: `The server says ${status}`, ...told });
      sessionStorage.setItem(`voxseg ${told.id}`, called);
      follow(told.id);
    });
    request.addEventListener("error", () => {
      request = null;
      fail({ problem: "The upload was broken off", remedy: "Try again; is the server still running?" });
    });
    request.open("POST", "api/jobs");
    request.send(form);
  }

  const ending = (name) => about.suffixes.find((suffix) => name.toLowerCase().endsWith(suffix));

  // --- the job ---

  function progress(fraction, words) {
    if (fraction === null) find("bar").removeAttribute("value");
    else find("bar").value = fraction;
    find("work-stage").textContent = words;
  }

  async function follow(id) {
    job = id;
    history.replaceState(null, "", `#job=${id}`);
    find("work-name").textContent = called;
    progress(null, "Waiting");
    show("work");
    while (job === id) {
      let told;
      try {
        told = await ask(path(id));
      } catch (error) {
        if (job === id) fail(error);
        return;
      }
      if (job !== id) return;
      if (told.state === "done") return done(told);
      if (told.state === "failed") {
        ask(path(id), { method: "DELETE" }).catch(() => {});
        return fail(told.error);
      }
      if (told.state === "running") progress(told.progress || null, (STAGES[told.stage] ?? told.stage) + (told.progress ? ` (${Math.round(100 * told.progress)} %)` : ""));
      else progress(null, told.ahead ? `Waiting for ${told.ahead} other ${told.ahead === 1 ? "job" : "jobs"}` : "Waiting");
      await wait(EVERY);
    }
  }

  function cancel() {
    request?.abort();
    request = null;
    if (job) ask(path(job), { method: "DELETE" }).catch(() => {});
    restart();
  }

  // --- what came of it ---

  const stem = () => called.slice(0, called.length - (ending(called) ?? "").length) || "scan";

  async function done(told) {
    const id = told.id;
    const sizes = new Map(told.result.files.map((file) => [file.name, file.bytes]));
    const cases = await Promise.all(told.result.cases.map((one) => sheet(id, one, sizes, told.result.cases.length > 1)));
    if (job !== id) return;
    find("cases").replaceChildren(...cases);
    for (const one of ["all", "remove"]) find(one).hidden = false;
    const minutes = Math.round(about.expire / 60);
    find("kept").textContent =
      `The server removes the results once all of them were downloaded together, or after ${minutes} minutes.` +
      (about.keeps ? " It keeps a copy in the folder that whoever runs it has chosen." : "");
    show("done");
  }

  async function sheet(id, one, sizes, several) {
    const part = make("div", "", { className: "case" });
    const name = stem(); // it may change while this waits
    const rename = (given) => name + given.slice("scan".length);
    part.append(make("h2", several ? rename(one.name) : name));
    if (one.quality > 0) {
      part.append(make("p", `Quality ${one.quality.toFixed(2)}: the mean Dice over structures that the network expects of itself; not a measurement.`, { className: "quality" }));
    }
    if (one.warnings.length) {
      const box = make("div", "", { className: "warnings" });
      box.append(make("h2", "Look out"), make("ul"));
      for (const text of one.warnings) box.lastChild.append(make("li", sentence(text)));
      part.append(box);
    }
    const named = (suffix) => one.files.find((name) => name.endsWith(suffix));
    const figure = make("figure");
    const image = make("img", "", { src: path(id, "files", named("_qc.png")), alt: "Three planes of the scan with the outlines of the structures, radiological convention" });
    figure.append(image);
    const columns = make("div", "", { className: "columns" });
    part.append(figure);
    if (named("_report.html")) part.append(viewer(id, named("_report.html")));
    part.append(columns);
    columns.append(await volumes(id, named("_volumes.tsv")), links(id, one, sizes, rename));
    // The result may be removed as soon as it is shown: what is shown is there then.
    await image.decode().catch(() => {});
    return part;
  }

  function viewer(id, name) {
    const holder = make("div");
    const button = make("button", "Open the viewer", { type: "button", className: "open-viewer" });
    button.addEventListener("click", () => {
      const frame = make("iframe", "", { title: "Interactive viewer", src: `${path(id, "files", name)}#volumes` });
      frame.setAttribute("sandbox", "allow-scripts");
      button.replaceWith(frame);
    });
    holder.append(button);
    return holder;
  }

  async function volumes(id, name) {
    const part = make("section");
    part.append(make("h2", "Volumes"));
    const text = await fetch(path(id, "files", name)).then((answer) => answer.text());
    const rows = text.trimEnd().split("\n").map((line) => line.split("\t"));
    const place = (column) => rows[0].indexOf(column);
    const table = make("table");
    const head = table.createTHead().insertRow();
    for (const words of ["structure", "ml"]) head.append(make("th", words, { scope: "col", className: words === "ml" ? "number" : "" }));
    const body = table.createTBody();
    for (const cells of rows.slice(1)) {
      const row = body.insertRow();
      row.append(make("th", cells[place("name")], { scope: "row" }));
      const found = Number(cells[place("voxels")]) > 0;
      const volume = found ? (Number(cells[place("mm3")]) / 1000).toFixed(2) : "not found";
      row.append(make("td", volume, { className: found ? "number" : "number zero" }));
    }
    part.append(table);
    return part;
  }

  function links(id, one, sizes, rename) {
    const part = make("section");
    part.append(make("h2", "Files"), make("ul", "", { className: "files" }));
    for (const name of one.files) {
      const item = make("li");
      item.append(make("a", rename(name), { href: path(id, "files", name), download: rename(name) }));
      const suffix = Object.keys(MEANINGS).find((ends) => name.endsWith(ends));
      item.append(make("span", ` ${[MEANINGS[suffix], size(sizes.get(name))].filter(Boolean).join(", ")}`, { className: "size" }));
      part.lastChild.append(item);
    }
    return part;
  }

  async function download() {
    const id = job;
    find("all").disabled = true;
    try {
      const answer = await fetch(path(id, "results.zip"));
      if (!answer.ok) throw await answer.json();
      const link = make("a", "", { href: URL.createObjectURL(await answer.blob()), download: `${stem()}_voxseg.zip` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
      if (job === id) removed();
    } catch (error) {
      find("kept").textContent = sentence(`the results did not arrive: ${error.problem ?? "the server does not answer"}`);
    }
    find("all").disabled = false;
  }

  function removed() {
    for (const link of document.querySelectorAll("#cases .files a")) {
      link.removeAttribute("href");
      link.setAttribute("aria-disabled", "true");
    }
    for (const button of document.querySelectorAll(".open-viewer")) button.hidden = true;
    for (const one of ["all", "remove"]) find(one).hidden = true;
    find("kept").textContent = "The server has removed the results" + (about.keeps ? ", but for the copy that it keeps." : ".");
    forget();
  }

  // --- the whole ---

  async function begin() {
    try {
      about = await ask("api/about");
    } catch (error) {
      return fail(error, "voxseg");
    }
    find("lead").textContent = `Segment a scan with the model ${about.model}.`;
    find("version").textContent = `voxseg ${about.voxseg}, model ${about.model}. Formats: ${about.suffixes.slice(0, -1).join(", ")}, DICOM as files or a zip archive, up to ${size(about.max_upload)}.`;
    find("promise").textContent =
      `The scan goes to ${location.host} and nowhere else. It is deleted when it has been segmented, the results when they were fetched` +
      (about.keeps ? "; a copy of the results stays there." : ".");
    const named = /^#job=([\w-]+)$/.exec(location.hash);
    if (!named) return restart();
    called = sessionStorage.getItem(`voxseg ${named[1]}`) ?? "scan";
    follow(named[1]);
  }

  find("token-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = find("token-text").value.trim();
    try {
      await ask("api/session", { method: "POST", headers: { Authorization: `Bearer ${text}` } });
    } catch (error) {
      find("token-problem").textContent = error.status === 401 ? "That is not the token." : sentence(error.problem);
      return;
    }
    find("token-text").value = "";
    begin();
  });
  find("send").addEventListener("click", () => send());
  find("cancel").addEventListener("click", cancel);
  find("again").addEventListener("click", restart);
  find("next").addEventListener("click", () => {
    if (job) ask(path(job), { method: "DELETE" }).catch(() => {});
    restart();
  });
  find("remove").addEventListener("click", () => {
    ask(path(job), { method: "DELETE" }).then(removed, (error) => (error.status === 404 ? removed() : fail(error)));
  });
  find("all").addEventListener("click", download);
  // A file that misses its place must not replace the page.
  for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());
  begin();
})();
