"""Renders chat templates with the Python package transformers.

    python make_golden.py FOLDER

For every FOLDER/NAME.jinja writes FOLDER/NAME.golden.json: for each conversation of
conversations.json (beside this script) what transformers renders, or that it refuses.
Needs transformers 5 and jinja2; torch is not needed. The clock is fixed.
"""
import datetime
import json
import pathlib
import sys

import transformers
from transformers.utils import chat_template_utils

DATE = "2024-07-26"
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromisoformat(DATE)


chat_template_utils.datetime = FixedClock


def main():
    folder = pathlib.Path(sys.argv[1])
    here = pathlib.Path(__file__).parent
    conversations = json.loads((here / "conversations.json").read_text())
    for path in sorted(folder.glob("*.jinja")):
        # a file's text is the template: line ends stay as they are
        source = path.read_bytes().decode()
        cases = []
        for conversation in conversations:
            case = {"name": conversation["name"]}
            variables = conversation.get("variables", {})
            try:
                rendered, spans = chat_template_utils.render_jinja_template(
                    conversations=[json.loads(json.dumps(conversation["messages"]))],
                    tools=conversation.get("tools"),
                    documents=conversation.get("documents"),
                    chat_template=source,
                    add_generation_prompt=conversation.get("add_generation_prompt", True),
                    **SPECIAL,
                    **variables,
                )
                case["text"] = rendered[0]
            except Exception as error:
                case["error"] = f"{type(error).__name__}: {error}"[:200]
            cases.append(case)
        golden = {
            "transformers": transformers.__version__,
            "date": DATE,
            "special": SPECIAL,
            "cases": cases,
        }
        text = json.dumps(golden, ensure_ascii=False, indent=1)
        (folder / f"{path.stem}.golden.json").write_text(text + "\n")
        done = sum("text" in case for case in cases)
        print(f"{path.stem}: {done} rendered, {len(cases) - done} refused")


main()
