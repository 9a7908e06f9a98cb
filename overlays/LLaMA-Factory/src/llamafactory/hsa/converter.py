"""Semantic types of messages, added to what LLaMA-Factory's dataset converters return."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .types import DEFAULT_TAG, SemanticType, parse_semantic_type

if TYPE_CHECKING:
    from ..data.converter import DatasetConverter


def with_semantic_types(converter: "DatasetConverter", map_kwargs: dict[str, Any]) -> Any:
    """Wrap ``converter`` when HSA is on, else return it unchanged.

    ``map_kwargs`` are the arguments of the ``Dataset.map`` call to come; sample numbers are asked for there, so that
    an error can name its sample.
    """
    if not converter.data_args.semantic_ids:
        return converter

    map_kwargs["with_indices"] = True
    return SemanticConverter(converter)


@dataclass
class SemanticConverter:
    """A dataset converter whose messages carry ``semantic_type`` as 0, 1 or 2.

    Every format gets the key (alpaca messages are GLOBAL_CONDITION), so that datasets with and without types share one
    Arrow schema and can be mixed. A leading system message is GLOBAL_CONDITION by definition; another type there is an
    error. Successive tool messages, which the openai format merges into one observation, take the most visible of
    their types (GLOBAL_CONDITION before LANDMARK before NOISE).

    Raises:
        ValueError: an unknown type, or a system message of another type; names the sample and the value.
    """

    converter: "DatasetConverter"

    def __call__(self, example: dict[str, Any], index: int | None = None) -> dict[str, Any]:
        types = self._message_types(example, index)
        output = self.converter(example)
        prompt, response = output["_prompt"], output["_response"]
        if types is None or not prompt:  # alpaca, or a sample that the converter gave up
            types = [int(SemanticType.GLOBAL_CONDITION)] * (len(prompt) + 1)
        elif len(types) != len(prompt) + bool(response):
            raise ValueError(
                f"{self._where(example, index)}: {len(types)} typed messages became {len(prompt)} prompt and "
                f"{len(response)} response messages; HSA cannot tell which is which."
            )

        for message, semantic_type in zip(prompt, types, strict=False):
            message["semantic_type"] = semantic_type

        for message in response:
            message["semantic_type"] = types[len(prompt)]

        return output

    def _where(self, example: dict[str, Any], index: int | None) -> str:
        number = "A sample" if index is None else f"Sample {index}"
        excerpt = str(example.get(self.converter.dataset_attr.messages))[:80]
        return f"{number} of dataset {self.converter.dataset_attr} ({excerpt}...)"

    def _message_types(self, example: dict[str, Any], index: int | None) -> list[int] | None:
        attr = self.converter.dataset_attr
        if attr.formatting == "alpaca":
            return None

        tag = getattr(attr, "semantic_tag", None) or DEFAULT_TAG
        types: list[int] = []
        observations: list[int] = []
        for number, message in enumerate(example[attr.messages] or []):
            where = f"{self._where(example, index)}, message {number}"
            semantic_type = parse_semantic_type(message.get(tag), where)
            role = message[attr.role_tag]
            if number == 0 and attr.system_tag and role == attr.system_tag:
                if semantic_type != SemanticType.GLOBAL_CONDITION:
                    raise ValueError(f"{where}: a system message is GLOBAL_CONDITION, got {message.get(tag)!r}.")
            elif attr.formatting == "openai" and role == attr.observation_tag:
                observations.append(semantic_type)
            else:
                if observations:
                    types.append(min(observations))
                    observations = []

                types.append(semantic_type)

        return types
