"""The tiny world: requests, noisy answers, an exact judge and a biased annotator.

A request asks for a few items of a category, sometimes with an exception:

    Name four animals except the cat.

A good answer lists that many distinct items of the category and nothing else:

    dog, horse, cow and sheep.

The judge computes an answer's quality exactly. The annotator, who labels the offline
preferences, sees the same quality, but likes talkative answers a little and makes mistakes:
the length bias and the noise that real preference data has.
"""

import math
import random
import re
from dataclasses import dataclass

CATEGORIES = {
    "animals": "dog cat horse cow sheep lion tiger bear wolf fox goat rabbit",
    "colors": "red blue green yellow black white brown pink purple orange gray gold",
    "fruits": "apple pear plum cherry grape lemon peach mango melon banana fig lime",
    "countries": "France Spain Italy Norway Japan China India Kenya Peru Chile Egypt Canada",
    "tools": "hammer saw drill wrench pliers chisel axe shovel rake knife file clamp",
    "sports": "tennis golf rugby hockey boxing rowing skiing judo chess cricket cycling sailing",
    "drinks": "water tea coffee milk juice beer wine cider cocoa soda rum gin",
    "clothes": "shirt coat hat sock shoe scarf glove belt dress skirt jacket tie",
    "trees": "oak pine elm birch maple cedar willow ash beech palm larch yew",
    "birds": "eagle owl hawk crow swan duck goose robin heron stork gull parrot",
    "metals": "iron copper tin zinc lead silver nickel steel brass bronze cobalt titanium",
    "rooms": "kitchen bedroom bathroom cellar attic hall office pantry garage porch studio library",
}
ITEMS = {category: items.split() for category, items in CATEGORIES.items()}
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
PHRASINGS = (
    "Name {n} {category}{exception}.",
    "List {n} {category}{exception}.",
    "Please give me {n} {category}{exception}.",
    "Tell me {n} {category}{exception}, please.",
    "Which {n} {category} do you know{exception}?",
    "I need {n} {category}{exception}.",
    "Can you think of {n} {category}{exception}?",
    "Write down {n} {category}{exception}.",
)
FILLERS = (
    "I hope this helps.",
    "Let me know if you need more.",
    "There are many others too.",
    "That was a nice question.",
    "Feel free to ask again.",
)

WRONG_ITEM = 0.5  # probability that an SFT answer's item is from another category, or said twice
FILLER = 0.35  # probability of a filler sentence after the answer; of another one after that; ...
LENGTH_BIAS = 0.1  # what a sentence is worth to the annotator, in units of quality
LABEL_NOISE = 0.1  # scale of the annotator's logistic noise, in units of quality


@dataclass(frozen=True)
class Request:
    """A request for `count` items of `category`, none of them `exception` (an item or None)."""

    category: str
    count: int
    exception: str | None
    phrasing: int

    @property
    def text(self) -> str:
        exception = f" except {self.exception}" if self.exception else ""
        return PHRASINGS[self.phrasing].format(
            n=NUMBERS[self.count], category=self.category, exception=exception
        )


def all_requests() -> list[Request]:
    """Every request of the world, in a fixed order; the texts are distinct."""
    return [
        Request(category, count, exception, phrasing)
        for category, items in ITEMS.items()
        for count in NUMBERS
        for exception in (None, *items)
        for phrasing in range(len(PHRASINGS))
    ]


REQUESTS = {request.text: request for request in all_requests()}


def noisy_answer(request: Request, rng: random.Random) -> str:
    """What the SFT model learns to imitate: wrong items and filler sentences included."""
    allowed = [item for item in ITEMS[request.category] if item != request.exception]
    said: list[str] = []
    for right in rng.sample(allowed, request.count):
        if rng.random() < WRONG_ITEM:
            other = ITEMS[rng.choice([c for c in ITEMS if c != request.category])]
            said.append(rng.choice(said + [rng.choice(other)]))
        else:
            said.append(right)
    sentences = [_listed(said)]
    while rng.random() < FILLER:
        sentences.append(rng.choice(FILLERS))
    return " ".join(sentences)


def _listed(items: list[str]) -> str:
    return ", ".join(items[:-1]) + " and " + items[-1] + "."


def quality(prompt: str, response: str) -> float:
    """Quality of a response to a prompt, in [0, 1]: the judge.

    The share of the asked items that the first sentence names: distinct, of the category and not
    the exception. Naming more items than asked divides by what was named. Prompts that are not of
    this world have quality 0, whatever the response.
    """
    request = REQUESTS.get(prompt)
    if request is None:
        return 0.0
    first_sentence = response.split(".")[0]
    named = [item for item in re.split(r", | and ", first_sentence) if item]
    right = {item for item in ITEMS[request.category] if item != request.exception}
    return len(right.intersection(named)) / max(request.count, len(named))


def prefers_first(prompt: str, first: str, second: str, rng: random.Random) -> bool:
    """The annotator's verdict: quality, plus a bias for sentences, plus logistic noise."""

    def liking(response: str) -> float:
        return quality(prompt, response) + LENGTH_BIAS * response.count(".")

    odds = (liking(first) - liking(second)) / LABEL_NOISE
    return rng.random() < 1 / (1 + math.exp(-odds))
