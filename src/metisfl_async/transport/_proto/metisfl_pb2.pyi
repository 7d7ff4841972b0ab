from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Empty(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("frames",)
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, frames: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Json(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, json: _Optional[_Iterable[str]] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("learner_id", "token", "address", "secret", "protocol")
    LEARNER_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    learner_id: str
    token: str
    address: str
    secret: str
    protocol: int
    def __init__(self, learner_id: _Optional[str] = ..., token: _Optional[str] = ..., address: _Optional[str] = ..., secret: _Optional[str] = ..., protocol: _Optional[int] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ("learner_id", "token", "incarnation", "heartbeat_secs", "lease_secs", "max_model_bytes", "federation_id", "protocol", "update_codec", "download_codec", "relays", "own_connection_bytes")
    LEARNER_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_SECS_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECS_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_BYTES_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_ID_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    UPDATE_CODEC_FIELD_NUMBER: _ClassVar[int]
    DOWNLOAD_CODEC_FIELD_NUMBER: _ClassVar[int]
    RELAYS_FIELD_NUMBER: _ClassVar[int]
    OWN_CONNECTION_BYTES_FIELD_NUMBER: _ClassVar[int]
    learner_id: str
    token: str
    incarnation: int
    heartbeat_secs: float
    lease_secs: float
    max_model_bytes: int
    federation_id: str
    protocol: int
    update_codec: str
    download_codec: str
    relays: _containers.RepeatedScalarFieldContainer[str]
    own_connection_bytes: int
    def __init__(self, learner_id: _Optional[str] = ..., token: _Optional[str] = ..., incarnation: _Optional[int] = ..., heartbeat_secs: _Optional[float] = ..., lease_secs: _Optional[float] = ..., max_model_bytes: _Optional[int] = ..., federation_id: _Optional[str] = ..., protocol: _Optional[int] = ..., update_codec: _Optional[str] = ..., download_codec: _Optional[str] = ..., relays: _Optional[_Iterable[str]] = ..., own_connection_bytes: _Optional[int] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: str
    def __init__(self, token: _Optional[str] = ...) -> None: ...

class ConfirmRequest(_message.Message):
    __slots__ = ("secret",)
    SECRET_FIELD_NUMBER: _ClassVar[int]
    secret: str
    def __init__(self, secret: _Optional[str] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("token", "message")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    token: str
    message: LearnerMessage
    def __init__(self, token: _Optional[str] = ..., message: _Optional[_Union[LearnerMessage, _Mapping]] = ...) -> None: ...

class Delivery(_message.Message):
    __slots__ = ("token", "number", "message")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    token: str
    number: int
    message: ControllerMessage
    def __init__(self, token: _Optional[str] = ..., number: _Optional[int] = ..., message: _Optional[_Union[ControllerMessage, _Mapping]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: str
    def __init__(self, token: _Optional[str] = ...) -> None: ...

class LearnerMessage(_message.Message):
    __slots__ = ("hello", "accept", "heartbeat", "evaluated", "failed", "answer")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    EVALUATED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    accept: Accept
    heartbeat: Heartbeat
    evaluated: Evaluated
    failed: Failed
    answer: Answer
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., accept: _Optional[_Union[Accept, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., evaluated: _Optional[_Union[Evaluated, _Mapping]] = ..., failed: _Optional[_Union[Failed, _Mapping]] = ..., answer: _Optional[_Union[Answer, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("token", "held")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    token: str
    held: _containers.RepeatedCompositeFieldContainer[HeldTask]
    def __init__(self, token: _Optional[str] = ..., held: _Optional[_Iterable[_Union[HeldTask, _Mapping]]] = ...) -> None: ...

class HeldTask(_message.Message):
    __slots__ = ("task_id", "is_done", "kind", "federation_id", "model_version")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    IS_DONE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    is_done: bool
    kind: str
    federation_id: str
    model_version: int
    def __init__(self, task_id: _Optional[str] = ..., is_done: bool = ..., kind: _Optional[str] = ..., federation_id: _Optional[str] = ..., model_version: _Optional[int] = ...) -> None: ...

class Accept(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Evaluated(_message.Message):
    __slots__ = ("task_id", "metrics", "contributors")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class ContributorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Contributor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Contributor, _Mapping]] = ...) -> None: ...
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTORS_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    metrics: _containers.ScalarMap[str, float]
    contributors: _containers.MessageMap[str, Contributor]
    def __init__(self, task_id: _Optional[str] = ..., metrics: _Optional[_Mapping[str, float]] = ..., contributors: _Optional[_Mapping[str, Contributor]] = ...) -> None: ...

class Contributor(_message.Message):
    __slots__ = ("metrics", "weight", "num_learners")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    METRICS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    NUM_LEARNERS_FIELD_NUMBER: _ClassVar[int]
    metrics: _containers.ScalarMap[str, float]
    weight: float
    num_learners: int
    def __init__(self, metrics: _Optional[_Mapping[str, float]] = ..., weight: _Optional[float] = ..., num_learners: _Optional[int] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("question_id", "answer_json", "error_type", "message", "learner")
    QUESTION_ID_FIELD_NUMBER: _ClassVar[int]
    ANSWER_JSON_FIELD_NUMBER: _ClassVar[int]
    ERROR_TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    LEARNER_FIELD_NUMBER: _ClassVar[int]
    question_id: str
    answer_json: str
    error_type: str
    message: str
    learner: str
    def __init__(self, question_id: _Optional[str] = ..., answer_json: _Optional[str] = ..., error_type: _Optional[str] = ..., message: _Optional[str] = ..., learner: _Optional[str] = ...) -> None: ...

class Failed(_message.Message):
    __slots__ = ("task_id", "error_type", "message")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    error_type: str
    message: str
    def __init__(self, task_id: _Optional[str] = ..., error_type: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class ControllerMessage(_message.Message):
    __slots__ = ("welcome", "task", "settled", "withdrawn", "heartbeat", "farewell", "question", "counted")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    FAREWELL_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    COUNTED_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    task: TaskOffer
    settled: Settled
    withdrawn: Withdrawn
    heartbeat: Heartbeat
    farewell: Farewell
    question: Question
    counted: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., task: _Optional[_Union[TaskOffer, _Mapping]] = ..., settled: _Optional[_Union[Settled, _Mapping]] = ..., withdrawn: _Optional[_Union[Withdrawn, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., farewell: _Optional[_Union[Farewell, _Mapping]] = ..., question: _Optional[_Union[Question, _Mapping]] = ..., counted: _Optional[_Iterable[str]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("verdicts",)
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    verdicts: _containers.RepeatedCompositeFieldContainer[TaskVerdict]
    def __init__(self, verdicts: _Optional[_Iterable[_Union[TaskVerdict, _Mapping]]] = ...) -> None: ...

class TaskVerdict(_message.Message):
    __slots__ = ("task_id", "verdict", "reason")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    verdict: str
    reason: str
    def __init__(self, task_id: _Optional[str] = ..., verdict: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class TaskOffer(_message.Message):
    __slots__ = ("task_id", "kind", "round_number", "model_version", "config_json", "federation_id", "seed")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ROUND_NUMBER_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_ID_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    kind: str
    round_number: int
    model_version: int
    config_json: str
    federation_id: str
    seed: int
    def __init__(self, task_id: _Optional[str] = ..., kind: _Optional[str] = ..., round_number: _Optional[int] = ..., model_version: _Optional[int] = ..., config_json: _Optional[str] = ..., federation_id: _Optional[str] = ..., seed: _Optional[int] = ...) -> None: ...

class Question(_message.Message):
    __slots__ = ("question_id", "method", "params_json", "timeout_secs")
    QUESTION_ID_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PARAMS_JSON_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_SECS_FIELD_NUMBER: _ClassVar[int]
    question_id: str
    method: str
    params_json: str
    timeout_secs: float
    def __init__(self, question_id: _Optional[str] = ..., method: _Optional[str] = ..., params_json: _Optional[str] = ..., timeout_secs: _Optional[float] = ...) -> None: ...

class Settled(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class Withdrawn(_message.Message):
    __slots__ = ("task_id", "reason")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    reason: str
    def __init__(self, task_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Farewell(_message.Message):
    __slots__ = ("reason", "model_version", "federation_id", "then")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_ID_FIELD_NUMBER: _ClassVar[int]
    THEN_FIELD_NUMBER: _ClassVar[int]
    reason: str
    model_version: int
    federation_id: str
    then: str
    def __init__(self, reason: _Optional[str] = ..., model_version: _Optional[int] = ..., federation_id: _Optional[str] = ..., then: _Optional[str] = ...) -> None: ...

class FetchModelRequest(_message.Message):
    __slots__ = ("token", "model_version", "federation_id", "codec")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_ID_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    token: str
    model_version: int
    federation_id: str
    codec: str
    def __init__(self, token: _Optional[str] = ..., model_version: _Optional[int] = ..., federation_id: _Optional[str] = ..., codec: _Optional[str] = ...) -> None: ...

class UpdateReply(_message.Message):
    __slots__ = ("state", "reason")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    state: str
    reason: str
    def __init__(self, state: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Status(_message.Message):
    __slots__ = ("federation_id", "is_finished", "protocol", "signals", "evaluates", "best")
    FEDERATION_ID_FIELD_NUMBER: _ClassVar[int]
    IS_FINISHED_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SIGNALS_FIELD_NUMBER: _ClassVar[int]
    EVALUATES_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    federation_id: str
    is_finished: bool
    protocol: int
    signals: TerminationSignals
    evaluates: bool
    best: BestModel
    def __init__(self, federation_id: _Optional[str] = ..., is_finished: bool = ..., protocol: _Optional[int] = ..., signals: _Optional[_Union[TerminationSignals, _Mapping]] = ..., evaluates: bool = ..., best: _Optional[_Union[BestModel, _Mapping]] = ...) -> None: ...

class BestModel(_message.Message):
    __slots__ = ("metric", "score", "model_version", "round_number")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    ROUND_NUMBER_FIELD_NUMBER: _ClassVar[int]
    metric: str
    score: float
    model_version: int
    round_number: int
    def __init__(self, metric: _Optional[str] = ..., score: _Optional[float] = ..., model_version: _Optional[int] = ..., round_number: _Optional[int] = ...) -> None: ...

class StartRequest(_message.Message):
    __slots__ = ("signals", "num_learners", "seed", "join_timeout_secs", "federation_id", "learners", "root_certificates", "has_model", "evaluates", "protocol")
    SIGNALS_FIELD_NUMBER: _ClassVar[int]
    NUM_LEARNERS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    JOIN_TIMEOUT_SECS_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_ID_FIELD_NUMBER: _ClassVar[int]
    LEARNERS_FIELD_NUMBER: _ClassVar[int]
    ROOT_CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    HAS_MODEL_FIELD_NUMBER: _ClassVar[int]
    EVALUATES_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    signals: TerminationSignals
    num_learners: int
    seed: int
    join_timeout_secs: float
    federation_id: str
    learners: _containers.RepeatedCompositeFieldContainer[NamedLearner]
    root_certificates: _containers.RepeatedScalarFieldContainer[bytes]
    has_model: bool
    evaluates: bool
    protocol: int
    def __init__(self, signals: _Optional[_Union[TerminationSignals, _Mapping]] = ..., num_learners: _Optional[int] = ..., seed: _Optional[int] = ..., join_timeout_secs: _Optional[float] = ..., federation_id: _Optional[str] = ..., learners: _Optional[_Iterable[_Union[NamedLearner, _Mapping]]] = ..., root_certificates: _Optional[_Iterable[bytes]] = ..., has_model: bool = ..., evaluates: bool = ..., protocol: _Optional[int] = ...) -> None: ...

class NamedLearner(_message.Message):
    __slots__ = ("hostname", "port", "root_certificate")
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    ROOT_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    hostname: str
    port: int
    root_certificate: int
    def __init__(self, hostname: _Optional[str] = ..., port: _Optional[int] = ..., root_certificate: _Optional[int] = ...) -> None: ...

class FederationRequest(_message.Message):
    __slots__ = ("federation_id", "best")
    FEDERATION_ID_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    federation_id: str
    best: bool
    def __init__(self, federation_id: _Optional[str] = ..., best: bool = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("federation_id", "seen", "run")
    FEDERATION_ID_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    federation_id: str
    seen: int
    run: str
    def __init__(self, federation_id: _Optional[str] = ..., seen: _Optional[int] = ..., run: _Optional[str] = ...) -> None: ...

class ShutDownRequest(_message.Message):
    __slots__ = ("federation_id", "keep_running")
    FEDERATION_ID_FIELD_NUMBER: _ClassVar[int]
    KEEP_RUNNING_FIELD_NUMBER: _ClassVar[int]
    federation_id: str
    keep_running: bool
    def __init__(self, federation_id: _Optional[str] = ..., keep_running: bool = ...) -> None: ...

class TerminationSignals(_message.Message):
    __slots__ = ("federation_rounds", "execution_cutoff_time_mins", "evaluation_metric", "evaluation_metric_cutoff_score", "mode", "global_updates", "patience_rounds", "min_delta")
    FEDERATION_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_CUTOFF_TIME_MINS_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_METRIC_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_METRIC_CUTOFF_SCORE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    GLOBAL_UPDATES_FIELD_NUMBER: _ClassVar[int]
    PATIENCE_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    MIN_DELTA_FIELD_NUMBER: _ClassVar[int]
    federation_rounds: int
    execution_cutoff_time_mins: float
    evaluation_metric: str
    evaluation_metric_cutoff_score: float
    mode: str
    global_updates: int
    patience_rounds: int
    min_delta: float
    def __init__(self, federation_rounds: _Optional[int] = ..., execution_cutoff_time_mins: _Optional[float] = ..., evaluation_metric: _Optional[str] = ..., evaluation_metric_cutoff_score: _Optional[float] = ..., mode: _Optional[str] = ..., global_updates: _Optional[int] = ..., patience_rounds: _Optional[int] = ..., min_delta: _Optional[float] = ...) -> None: ...

class AskRequest(_message.Message):
    __slots__ = ("method", "params_json", "timeout_secs", "num_learners", "join_timeout_secs", "learners", "root_certificates")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PARAMS_JSON_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_SECS_FIELD_NUMBER: _ClassVar[int]
    NUM_LEARNERS_FIELD_NUMBER: _ClassVar[int]
    JOIN_TIMEOUT_SECS_FIELD_NUMBER: _ClassVar[int]
    LEARNERS_FIELD_NUMBER: _ClassVar[int]
    ROOT_CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    method: str
    params_json: str
    timeout_secs: float
    num_learners: int
    join_timeout_secs: float
    learners: _containers.RepeatedCompositeFieldContainer[NamedLearner]
    root_certificates: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, method: _Optional[str] = ..., params_json: _Optional[str] = ..., timeout_secs: _Optional[float] = ..., num_learners: _Optional[int] = ..., join_timeout_secs: _Optional[float] = ..., learners: _Optional[_Iterable[_Union[NamedLearner, _Mapping]]] = ..., root_certificates: _Optional[_Iterable[bytes]] = ...) -> None: ...

class AskReply(_message.Message):
    __slots__ = ("learner_id", "answer")
    LEARNER_ID_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    learner_id: str
    answer: Answer
    def __init__(self, learner_id: _Optional[str] = ..., answer: _Optional[_Union[Answer, _Mapping]] = ...) -> None: ...

class EvaluationReport(_message.Message):
    __slots__ = ("federation_id", "model_version", "is_done", "metrics", "error_type", "message")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    FEDERATION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    IS_DONE_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    ERROR_TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    federation_id: str
    model_version: int
    is_done: bool
    metrics: _containers.ScalarMap[str, float]
    error_type: str
    message: str
    def __init__(self, federation_id: _Optional[str] = ..., model_version: _Optional[int] = ..., is_done: bool = ..., metrics: _Optional[_Mapping[str, float]] = ..., error_type: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ("reason", "federation_id")
    REASON_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_ID_FIELD_NUMBER: _ClassVar[int]
    reason: str
    federation_id: str
    def __init__(self, reason: _Optional[str] = ..., federation_id: _Optional[str] = ...) -> None: ...
