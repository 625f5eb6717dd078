"""Runs the same work here and in each peer in turn, round by round, and writes a table; run.sh starts it."""

import argparse
import ctypes
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
THREADS = 2
FORWARD = ["ours", "pytorch", "keras", "onnxruntime", "openvino", "ncnn"]
TRAIN = ["ours", "pytorch", "keras"]
EPOCH = ["ours", "keras"]

# Key of peers.json: (who can do it, repetitions in one turn, share of the rounds).
# An epoch is long enough to need fewer rounds.
WORKS = {
    "forward_20x64": (FORWARD, 3, 1),
    "forward_1x64": (FORWARD, 20, 1),
    "forward_1x224": (FORWARD, 5, 1),
    "forward_8x224": (FORWARD, 1, 1),
    "step_frozen": (TRAIN, 10, 1),
    "step_block5": (TRAIN, 10, 1),
    "step_all": (TRAIN, 10, 1),
    "epoch_frozen": (EPOCH, 1, 1 / 3),
    "epoch_block5": (EPOCH, 1, 1 / 3),
    "ten_epochs_cached": (EPOCH, 1, 1 / 9),
    "loader": (EPOCH, 2, 1),
}
# Pictures a second, where more is better; all else is milliseconds or megabytes.
RATES = {"loader"}
MEMORY = "memory_step_all_mb"
# Between the features of the peers: far above rounding in f32, far below a lower precision or another network.
TOLERANCE = 2e-4


class Failed(Exception):
    """A peer that cannot be used; the text says why."""


class Worker:
    """A peer's process, stopped by signal whenever it is not its turn: it may spin as it likes, but not now."""

    def __init__(self, name, command, log):
        self.name = name
        environment = os.environ | {
            "RAYON_NUM_THREADS": str(THREADS),
            "OMP_NUM_THREADS": str(THREADS),
            "CUDA_VISIBLE_DEVICES": "",
            "KERAS_BACKEND": "tensorflow",
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
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
            raise Failed("it ended") from error
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
        raise Failed(lines[-1] if lines else "it ended without a word")

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

    def start(self, name):
        folders = [str(self.options.models), str(self.options.data)]
        command = [str(self.options.ours)] if name == "ours" else [sys.executable, str(HERE / f"{name}_peer.py")]
        worker = Worker(name, command + folders, self.logs / f"{name}.log")
        self.versions[name] = worker.version
        return worker

    def open(self, names):
        for name in names:
            try:
                self.workers[name] = self.start(name)
            except Failed as failure:
                self.without(name, failure)

    def without(self, name, failure):
        if worker := self.workers.pop(name, None):
            worker.close()
        if name == "ours":
            raise SystemExit(f"ours: {failure}")
        print(f"without {name}: {failure}", file=sys.stderr)

    def close(self):
        for worker in self.workers.values():
            worker.close()

    def ask(self, name, *words):
        """The peer's answer; None, and the peer is left out from here on, when it has none."""
        try:
            return self.workers[name].ask(*words)
        except Failed as failure:
            self.without(name, failure)
            return None

    def measure(self, work):
        """The figures of each peer, one a round."""
        names, times, share = WORKS[work]
        names = [name for name in names if name in self.workers]
        prints = {name: self.ask(name, "prepare", work) for name in names}
        check_agreement(work, prints)
        names = [name for name in names if name in self.workers]
        figures = {name: [] for name in names}
        rounds = max(1, round(self.options.rounds * share))
        for index in range(rounds):
            print(f"\r{work} {index + 1}/{rounds} ", end="", file=sys.stderr, flush=True)
            # Another one begins each round, so that nobody always follows the same neighbour.
            first = index % len(names)
            for name in names[first:] + names[:first]:
                if name in self.workers and (figure := self.ask(name, "run", work, times)):
                    figures[name].append(float(figure))
        print(file=sys.stderr)
        return {name: values for name, values in figures.items() if values}

    def measure_memory(self):
        """The peak of a fresh process that takes training steps with every block open."""
        peaks = {}
        for name in TRAIN:
            if name not in self.workers:
                continue
            worker = self.start(name)
            try:
                worker.ask("prepare", "step_all")
                worker.ask("run", "step_all", WORKS["step_all"][1])
                peaks[name] = [float(worker.ask("memory"))]
            except Failed as failure:
                self.without(name, failure)
            finally:
                worker.close()
        return peaks


def check_agreement(work, prints):
    """Stops unless all have computed the same features of the same pictures."""
    features = {name: [float(word) for word in text.split()] for name, text in prints.items() if text}
    if not features:
        return
    truth_of = "pytorch" if "pytorch" in features else next(iter(features))
    for name, found in features.items():
        for value, truth in zip(found, features[truth_of], strict=True):
            if not abs(value - truth) <= TOLERANCE * abs(truth):
                raise SystemExit(f"{work}: {name} computes something else: {found}, {truth_of} {features[truth_of]}")


def ratio(work, ours, peer):
    """How many times faster, or smaller, ours is."""
    return ours / peer if work in RATES else peer / ours


def table(measured):
    names = [name for name in FORWARD if any(name in figures for figures in measured.values())]
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
    pictures = {part: sum(1 for path in (run.options.data / part).rglob("*") if path.is_file()) for part in ("train", "validation")}
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    return "\n".join(
        [
            f"- Machine: {info.get('model name', platform.machine())} ({family}), {len(os.sched_getaffinity(0))} cores, "
            f"{memory:.0f} GiB, {', '.join(known)}; Linux {platform.release()}; {THREADS} threads for everyone.",
            f"- Versions: {versions} ({commit}, {output('rustc', '--version')}), Python {platform.python_version()}.",
            f"- At most, on {THREADS} threads: {flops:.0f} GFLOP/s of multiply-adds in registers, {bandwidth:.0f} GB/s read "
            "from memory.",
            f"- Rounds: {run.options.rounds}. Epochs and loader: {pictures['train']} training and "
            f"{pictures['validation']} validation pictures.",
            "- Cells: median (best) of the rounds, then the ratio of the peer's median to ours. Milliseconds; pictures a "
            f"second for `loader`, megabytes for `{MEMORY}`.",
        ]
    )


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", type=Path, required=True)
    parser.add_argument("--peak", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default=",".join([*WORKS, MEMORY]), help="keys, separated by commas")
    options = parser.parse_args()
    options.only = options.only.split(",")
    unknown = set(options.only) - {*WORKS, MEMORY}
    if unknown or options.rounds < 1:
        parser.error(f"--rounds is 1 or more; --only takes {', '.join([*WORKS, MEMORY])}")
    return options


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    run = Run(options)
    measured = {}
    try:
        needed = {name for work in options.only for name in (TRAIN if work == MEMORY else WORKS[work][0])}
        peaks = [peak(options)]
        run.open([name for name in FORWARD if name in needed])
        for work in WORKS:
            if work in options.only:
                measured[work] = run.measure(work)
        if MEMORY in options.only:
            measured[MEMORY] = run.measure_memory()
    finally:
        run.close()
    peaks.append(peak(options))

    medians = {
        work: {name: round(statistics.median(values), 3) for name, values in figures.items()}
        for work, figures in measured.items()
    }
    report = f"{machine(run, peaks)}\n\n{table(measured)}"
    (options.out / "peers.json").write_text(json.dumps(medians, indent=2) + "\n")
    (options.out / "peers" / "rounds.json").write_text(json.dumps(measured, indent=2) + "\n")
    (options.out / "peers" / "table.md").write_text(report + "\n")
    print(report)


if __name__ == "__main__":
    main()
