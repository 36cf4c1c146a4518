"""What every part of a space's file is made of: strict models, and numbers that are none of YAML's words."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError


def _number(value: Any) -> Any:
    """YAML reads yes, no, on, off as true and false, and Python true as 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number", "Input should be a number; YAML reads yes and on as true")
    return value


Number = BeforeValidator(_number)
Whole = Annotated[int, Number]
Real = Annotated[float, Number]


class Strict(BaseModel):
    """Unknown keys are refused, and so are NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
