"""What every section of the settings is made of: its base class, and ranges."""

from typing import Annotated

import pydantic
from pydantic import Field

POSITIVE = Annotated[int, Field(ge=1)]
COUNT = Annotated[int, Field(ge=0)]
STRENGTH = Annotated[float, Field(ge=0)]
FRACTION = Annotated[float, Field(ge=0, lt=1)]


class Section(pydantic.BaseModel):
    """Base of all sections: frozen, unknown keys forbidden, finite numbers."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )
