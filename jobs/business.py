"""The recipe's `business`: what the requests cost today, what the change costs, and what it is worth.

Money is in `currency`; hours of people are hours of work; rates are shares between 0 and 1. What is left out is not
guessed: the account then has no such line and says so.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, field_validator, model_validator

from deshi.serve.kpi import Frozen

CURRENCIES = {"JPY": 0, "USD": 2, "EUR": 2, "GBP": 2, "CNY": 2, "KRW": 0, "TWD": 2, "SGD": 2, "INR": 2, "AUD": 2}
Money = Annotated[float, Field(ge=0)]


class Finite(Frozen):
    """Frozen, and no number of it is infinite."""

    model_config = ConfigDict(allow_inf_nan=False)


class Today(Finite):
    """What answers the requests now: a price list, or machines of a price and a throughput."""

    price_per_1000: Money | None = None
    price_per_hour: Money | None = Field(None, description="of one machine that answers today")
    requests_per_hour: float | None = Field(None, gt=0, description="that one such machine answers at most")
    latency_ms: float | None = Field(None, gt=0, description="that users wait today; else the teacher's, as felt")

    @model_validator(mode="after")
    def _one_price(self) -> Self:
        hourly = (self.price_per_hour is not None, self.requests_per_hour is not None)
        if any(hourly) != all(hourly):
            raise ValueError("price_per_hour and requests_per_hour go together; give both, or price_per_1000 alone")
        if self.price_per_1000 is not None and all(hourly):
            raise ValueError("price_per_1000 and price_per_hour exclude each other; keep one of them")
        return self


class Migration(Finite):
    """Work that moves the callers to the new endpoint, in hours by step."""

    hours: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    hour_cost: Money = 0.0


class Operation(Finite):
    """Work that keeps the new endpoint running, beyond what is done today."""

    hours_per_month: float = Field(0.0, ge=0)
    hour_cost: Money = 0.0


class Staff(Finite):
    """People who wait for answers while they work."""

    people: int = Field(ge=0)
    hour_cost: Money
    requests_per_hour: float = Field(ge=0, description="of one of them, while at work")
    share_waiting: float = Field(ge=0, le=1, description="share of an answer's time in which they can do nothing else")
    hours_per_month: float = Field(160.0, gt=0, description="at work, each")


class Experience(Finite):
    """What a customer's satisfaction is worth; shown apart, never in the base case."""

    value_per_satisfied_request: float


class Business(Finite):
    """How many requests there are, what they cost today, and what the change takes."""

    currency: str = "JPY"
    requests_per_month: float = Field(1_000_000, gt=0)
    peak_rps: float = Field(20, gt=0)
    today: Today | None = Field(None, description="left out: the teacher on the same target")
    migration: Migration = Migration()
    operation: Operation = Operation()
    staff: Staff | None = None
    training_cost: Money = Field(0.0, description="of making the student: machines and people, once")
    staff_training_hours: float = Field(0.0, ge=0, description="of all staff together, once, at staff.hour_cost")
    error_cost: Money | dict[str, dict[str, Money]] | None = Field(
        None, description="of one wrong answer: a number, or {true label: {answered label: cost}}"
    )
    experience: Experience | None = None
    horizon_months: int = Field(36, ge=1, le=120)
    discount_rate: float = Field(0.05, ge=0, lt=1, description="a year")

    @field_validator("currency")
    @classmethod
    def _known(cls, currency: str) -> str:
        if currency not in CURRENCIES:
            raise ValueError(f"currency {currency!r} is not known; use one of {', '.join(CURRENCIES)}")
        return currency

    @field_validator("error_cost", mode="wrap")
    @classmethod
    def _one_sentence(cls, given: object, read: ValidatorFunctionWrapHandler) -> object:
        try:
            return read(given)
        except ValidationError:  # of a union pydantic reports every branch
            raise ValueError(
                f"{given!r} is no price of wrong answers; write a number of 0 or more, or one for each error as "
                "{true label: {answered label: number}}"
            ) from None

    @model_validator(mode="after")
    def _training_has_a_price(self) -> Self:
        if self.staff_training_hours and self.staff is None:
            raise ValueError("staff_training_hours has no price without staff; add staff with its hour_cost")
        return self
