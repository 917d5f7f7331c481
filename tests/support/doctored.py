"""What the tests of the doctor share."""

import json
from functools import partial

from dice.recipe.load import origin
from dice.stages.prepare import load
from dice.tools import doctor


def found(topic, *overrides, recipe="tiny"):
    """What the doctor finds on a topic; later findings are not looked for."""
    loaded = load(recipe, overrides)
    findings = doctor.findings(loaded, partial(origin, recipe, overrides))
    return next(finding for finding in findings if finding.topic == topic)


def change_json(path, **changes):
    """Some keys of a JSON file set; None takes one out."""
    content = {**(json.loads(path.read_text()) if path.exists() else {}), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
