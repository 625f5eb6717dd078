"""Runs the same work here and in each peer in turn, round by round, and writes a table; run.sh starts it."""

import argparse
import ctypes
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from peer import LAST_STAGE, LITE, THREADS, VGG, parts_of

HERE = Path(__file__).parent
COLUMNS = ["ours", "pytorch", "keras", "pillow", "onnxruntime", "openvino", "ncnn", "candle", "rten"]
FORWARD = ["ours", "pytorch", "keras", "onnxruntime", "openvino", "ncnn"]
TRAIN = ["ours", "pytorch", "keras"]
EPOCH = ["ours", "keras"]
PHOTOGRAPHS = ["ours", "pytorch", "keras"]
BASE_FORWARD = ["ours", "pytorch", "onnxruntime", "openvino", "ncnn", "rten"]
BASE_TRAIN = ["ours", "pytorch"]
# candle takes seconds for depthwise convolutions.
CANDLE_BASES = ["resnet18", "resnet50", "repvgg_a0"]


class Work(NamedTuple):
    """Who can do it, repetitions in one turn, share of the rounds."""

    names: list
    times: int
    share: float = 1


def works():
    """By key of peers.json. An epoch is long enough to need fewer rounds."""
    listed = {
        "forward_20x64": Work(FORWARD, 3),
        "forward_1x64": Work(FORWARD, 20),
        "forward_1x224": Work(FORWARD, 5),
        "forward_8x224": Work(FORWARD, 1),
        "step_frozen": Work(TRAIN, 10),
        "step_block5": Work(TRAIN, 10),
        "step_all": Work(TRAIN, 10),
        "epoch_frozen": Work(EPOCH, 1, 1 / 3),
        "epoch_block5": Work(EPOCH, 1, 1 / 3),
        "ten_epochs_cached": Work(EPOCH, 1, 1 / 9),
        "loader": Work(EPOCH, 2),
        "loader_photographs": Work(PHOTOGRAPHS + ["pillow"], 1),
    }
    for base in LAST_STAGE:
        names = BASE_FORWARD + ["candle"] * (base in CANDLE_BASES)
        listed |= {f"{base}_1x224": Work(names, 10), f"{base}_8x224": Work(names, 3)}
        listed |= {f"{base}_step_{opened}": Work(BASE_TRAIN, 5) for opened in ("frozen", "last", "all")}
    listed |= {f"{LITE}_epoch_{opened}": Work(EPOCH, 1, 1 / 3) for opened in ("frozen", "last")}
    listed[f"{LITE}_epoch_photographs"] = Work(PHOTOGRAPHS, 1)
    return listed


WORKS = works()
# Megabytes of a fresh process that takes the steps of another key.
MEMORY = {"memory_step_all_mb": "step_all"} | {
    f"{base}_memory_{opened}_mb": f"{base}_step_{opened}" for base in LAST_STAGE for opened in ("frozen", "last", "all")
}
# Those of a base stand together, VGG19's come first.
KEYS = sorted([*WORKS, *MEMORY], key=lambda key: [VGG, *LAST_STAGE].index(parts_of(key)[0]))
# Pictures a second, where more is better; all else is milliseconds or megabytes.
RATES = {"loader", "loader_photographs"}
# Between the features of the peers, of their sums and of single ones: far above rounding in f32, far below a lower
# precision or another network. Between small pictures of large photographs: a grey level, which resizing in another way
# may make.
TOLERANCES, PIXEL_TOLERANCES = (2e-4, 1e-3), (5e-3, 2e-2)


def peers_of(key):
    return WORKS[MEMORY.get(key, key)].names


class Failed(Exception):
    """What a peer cannot do; the text says why."""


class Gone(Failed):
    """A peer that is no more."""


class Worker:
    """A peer's process, stopped by signal whenever it is not its turn: it may spin as it likes, but not now."""

    def __init__(self, name, command, log):
        self.name = name
        environment = os.environ | {
            "RAYON_NUM_THREADS": str(THREADS),
            "RTEN_NUM_THREADS": str(THREADS),
            "OMP_NUM_THREADS": str(THREADS),
            "CUDA_VISIBLE_DEVICES": "",
            "KERAS_BACKEND": "tensorflow",
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        if name == "candle":
            environment["HEADSTART_KERNELS"] = "candle"
        self.log = log
        with open(log, "w") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
                preexec_fn=die_with_parent,
            )
        try:
            self.version = self.answer("ready")
        except Failed:
            self.close()
            raise
        self.stop()

    def ask(self, *words):
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.write(" ".join(map(str, words)) + "\n")
            self.process.stdin.flush()
            return self.answer("ok")
        except BrokenPipeError as error:
            raise Gone("it ended") from error
        finally:
            self.stop()

    def answer(self, wanted):
        line = self.process.stdout.readline()
        word, _, rest = line.strip().partition(" ")
        if word == wanted:
            return rest
        if line:
            raise Failed(rest)
        lines = [line for line in Path(self.log).read_text(errors="replace").splitlines() if line.strip()]
        raise Gone(lines[-1] if lines else "it ended without a word")

    def stop(self):
        self.process.send_signal(signal.SIGSTOP)

    def close(self):
        self.process.kill()
        self.process.wait()


def die_with_parent():
    """Asks Linux to end a stopped peer when this process is gone, however it went."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Run:
    def __init__(self, options):
        self.options = options
        self.logs = options.out / "peers"
        self.workers = {}
        self.versions = {}
        # Who could not be started, and who could not do what: shown below the table.
        self.absent = set()
        self.notes = []

    def start(self, name):
        folders = [str(self.options.models), str(self.options.data), str(self.options.photographs)]
        programs = {"ours": self.options.ours, "candle": self.options.ours, "rten": self.options.rten}
        if name not in programs:
            command = [sys.executable, str(HERE / f"{name}_peer.py")]
        elif programs[name] and programs[name].exists():
            command = [str(programs[name])]
        else:
            raise Failed("it was not built")
        worker = Worker(name, command + folders, self.logs / f"{name}.log")
        self.versions[name] = candle_version() if name == "candle" else worker.version
        return worker

    def open(self, names):
        """Starts those who are not there; who ended in an earlier work gets another chance."""
        for name in names:
            if name in self.workers or name in self.absent:
                continue
            try:
                self.workers[name] = self.start(name)
            except Failed as failure:
                self.absent.add(name)
                self.note("everything", name, failure)

    def note(self, work, name, failure):
        if name == "ours":
            raise SystemExit(f"{work}: ours: {failure}")
        self.notes.append(f"{work} without {name}: {failure}")
        print(f"\n{self.notes[-1]}", file=sys.stderr)

    def close(self):
        for worker in self.workers.values():
            worker.close()

    def ask(self, work, name, *words):
        """The peer's answer; None when it has none."""
        try:
            return self.workers[name].ask(*words)
        except Failed as failure:
            if isinstance(failure, Gone):
                self.workers.pop(name).close()
            self.note(work, name, failure)
            return None

    def measure(self, work):
        """The figures of each peer, one a round."""
        if work in MEMORY:
            return self.measure_memory(work)
        names, times, share = WORKS[work]
        self.open(names)
        names = [name for name in names if name in self.workers]
        prints = {name: self.ask(work, name, "prepare", work) for name in names}
        check_agreement(work, prints)
        names = [name for name in names if prints[name] is not None]
        figures = {name: [] for name in names}
        rounds = max(1, round(self.options.rounds * share))
        for index in range(rounds):
            print(f"\r{work} {index + 1}/{rounds} ", end="", file=sys.stderr, flush=True)
            # Another one begins each round, so that nobody always follows the same neighbour.
            first = index % len(names)
            for name in names[first:] + names[:first]:
                if name in self.workers and (figure := self.ask(work, name, "run", work, times)):
                    figures[name].append(float(figure))
        print(file=sys.stderr)
        return {name: values for name, values in figures.items() if values}

    def measure_memory(self, key):
        """The peak of a fresh process that takes training steps."""
        work, peaks = MEMORY[key], {}
        print(key, file=sys.stderr)
        for name in peers_of(key):
            if name in self.absent:
                continue
            worker = None
            try:
                worker = self.start(name)
                worker.ask("prepare", work)
                worker.ask("run", work, WORKS[work].times)
                peaks[name] = [float(worker.ask("memory"))]
            except Failed as failure:
                self.note(key, name, failure)
            finally:
                if worker:
                    worker.close()
        return peaks

    def costs(self, works):
        """Multiplications and bytes of each forward pass and step."""
        self.open(["ours"])
        costs = {}
        for work in works:
            if work in WORKS and re.search(r"\dx\d|step", work):
                costs[work] = [float(word) for word in self.ask(work, "ours", "cost", work).split()]
        return costs


def check_agreement(work, prints):
    """Stops unless all have computed the same features of the same pictures."""
    features = {name: [float(word) for word in text.split()] for name, text in prints.items() if text}
    if not features:
        return
    truth_of = "pytorch" if "pytorch" in features else next(iter(features))
    truth = features[truth_of]
    sum_tolerance, samples_tolerance = PIXEL_TOLERANCES if work in RATES else TOLERANCES
    for name, found in features.items():
        sums = [abs(a - b) / abs(b) for a, b in zip(found[:2], truth[:2], strict=True)]
        distance = sum((a - b) ** 2 for a, b in zip(found[2:], truth[2:], strict=True)) ** 0.5
        samples = distance / sum(b**2 for b in truth[2:]) ** 0.5
        if not (max(sums) <= sum_tolerance and samples <= samples_tolerance):
            differ = f"its features differ from {truth_of}'s by {samples:.1e}, their sums by {max(sums):.1e}"
            raise SystemExit(f"\n{work}: {name} computes something else: {differ}")


def candle_version():
    lock = (HERE / "../../Cargo.lock").read_text()
    return re.search(r'name = "candle-core"\nversion = "([^"]+)"', lock)[1]


def ratio(work, ours, peer):
    """How many times faster, or smaller, ours is."""
    return ours / peer if work in RATES else peer / ours


def table(measured):
    names = [name for name in COLUMNS if any(name in peers_of(work) for work in measured)]
    head = ["work", *names, "fastest peer / ours"]
    lines = [head, ["---"] * len(head)]
    for work, figures in measured.items():
        medians = {name: statistics.median(values) for name, values in figures.items()}
        best = max if work in RATES else min
        cells, ratios = [f"`{work}`"], []
        for name in names:
            if name not in figures:
                cells.append("–")
                continue
            cell = f"{short(medians[name])} ({short(best(figures[name]))})"
            if name != "ours" and "ours" in medians:
                ratios.append(ratio(work, medians["ours"], medians[name]))
                cell += f" {ratios[-1]:.2f}×"
            cells.append(cell)
        cells.append(f"**{min(ratios):.2f}×**" if ratios else "–")
        lines.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def short(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def limits(measured, costs, peaks):
    """What ours reaches of the processor's arithmetic and of the memory's rate, by the least that a row costs."""
    flops, bandwidth = (max(values) for values in zip(*peaks))
    head = ["work", "multiply-adds (G)", "ms", "GFLOP/s", "of the peak", "MB", "GB/s", "of the memory's rate"]
    lines = [head, ["---"] * len(head)]
    for work, (multiplications, moved) in costs.items():
        taken = statistics.median(measured[work]["ours"]) / 1000
        computed, read = 2e-9 * multiplications / taken, 1e-9 * moved / taken
        cells = [f"`{work}`", f"{multiplications / 1e9:.2f}", short(1000 * taken), f"{computed:.0f}"]
        cells += [f"{computed / flops:.0%}", f"{moved / 1e6:,.0f}", f"{read:.1f}", f"{read / bandwidth:.0%}"]
        lines.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def peak(options):
    """GFLOP/s and GB/s that two threads reach when they do nothing else, while nobody else runs."""
    printed = subprocess.run([options.peak], capture_output=True, text=True, check=True).stdout
    return [float(word) for word in printed.split()]


def machine(run, peaks):
    """Where and with what the figures were measured, as markdown."""
    flops, bandwidth = (max(values) for values in zip(*peaks))
    info = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        info.setdefault(key.strip(), value.strip())
    family = ", ".join(f"{key} {info[key]}" for key in ("cpu family", "model") if key in info)
    flags = info.get("flags", info.get("Features", "")).split()
    known = [flag for flag in ("avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "asimd") if flag in flags]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    output = lambda *command: subprocess.run(command, capture_output=True, text=True).stdout.strip()
    commit = output("git", "describe", "--always", "--dirty") or "no commit"
    pictures, photographs = (
        {part: sum(1 for path in (data / part).rglob("*") if path.is_file()) for part in ("train", "validation")}
        for data in (run.options.data, run.options.photographs)
    )
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    return "\n".join(
        [
            f"- Machine: {info.get('model name', platform.machine())} ({family}), {len(os.sched_getaffinity(0))} cores, "
            f"{memory:.0f} GiB, {', '.join(known)}; Linux {platform.release()}; {THREADS} threads for everyone.",
            f"- Versions: {versions} ({commit}, {output('rustc', '--version')}), Python {platform.python_version()}.",
            f"- At most, on {THREADS} threads: {flops:.0f} GFLOP/s of multiply-adds in registers, {bandwidth:.0f} GB/s read "
            "from memory.",
            f"- Rounds: {run.options.rounds}. Epochs and loader: {pictures['train']} training and "
            f"{pictures['validation']} validation pictures; photographs: {photographs['train']} and "
            f"{photographs['validation']}.",
            "- Cells: median (best) of the rounds, then the ratio of the peer's median to ours. Milliseconds; pictures a "
            "second for `loader…`, megabytes for `…_mb`.",
            *(f"- {note}" for note in run.notes),
        ]
    )


def chosen(patterns):
    """The keys that fit any of the patterns."""
    patterns = [pattern for listed in patterns for pattern in listed.split(",")]
    for pattern in patterns:
        if not any(fnmatchcase(key, pattern) for key in KEYS):
            raise argparse.ArgumentTypeError(f"--only {pattern} is none of {', '.join(KEYS)}")
    return [key for key in KEYS if any(fnmatchcase(key, pattern) for pattern in patterns)]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", type=Path, required=True)
    parser.add_argument("--rten", type=Path)
    parser.add_argument("--peak", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", action="append", help="keys or patterns (`*_1x224`), separated by commas or repeated")
    parser.add_argument("--add", action="store_true", help="keep the other keys' figures of the run before")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds is 1 or more")
    try:
        options.only = chosen(options.only or ["*"])
    except argparse.ArgumentTypeError as error:
        parser.error(error)
    return options


def save(options, measured):
    """Every figure, and the medians."""
    medians = {
        work: {name: round(statistics.median(values), 3) for name, values in figures.items()}
        for work, figures in measured.items()
    }
    (options.out / "peers.json").write_text(json.dumps(medians, indent=2) + "\n")
    (options.out / "peers" / "rounds.json").write_text(json.dumps(measured, indent=2) + "\n")


def before(options):
    """What runs before have measured, where this one is to add to them."""
    rounds = options.out / "peers" / "rounds.json"
    return json.loads(rounds.read_text()) if options.add and rounds.exists() else {}


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    run = Run(options)
    measured = before(options)
    try:
        peaks = [peak(options)]
        for work in options.only:
            measured[work] = run.measure(work)
            # Now, so that a run that is cut off has not been for nothing.
            measured = {key: measured[key] for key in KEYS if key in measured}
            save(options, measured)
        costs = run.costs(measured)
    finally:
        run.close()
    peaks.append(peak(options))

    report = f"{machine(run, peaks)}\n\n{table(measured)}\n\n{limits(measured, costs, peaks)}"
    (options.out / "peers" / "table.md").write_text(report + "\n")
    print(report)


if __name__ == "__main__":
    main()
