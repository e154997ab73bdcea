"""Types of relay_pb2_grpc, which the compiler writes without any. Written by generate.py."""

from collections.abc import AsyncIterator
from typing import overload

import grpc
import grpc.aio

from tidegate.wire import relay_pb2

class RelayStub:
    @overload
    def __new__(cls, channel: grpc.Channel) -> RelayStub: ...
    @overload
    def __new__(cls, channel: grpc.aio.Channel) -> RelayAsyncStub: ...
    Join: grpc.UnaryUnaryMultiCallable[relay_pb2.JoinRequest, relay_pb2.JoinReply]
    Post: grpc.UnaryUnaryMultiCallable[relay_pb2.PostRequest, relay_pb2.PostReply]
    Collect: grpc.UnaryUnaryMultiCallable[relay_pb2.CollectRequest, relay_pb2.CollectReply]
    File: grpc.UnaryUnaryMultiCallable[relay_pb2.Docket, relay_pb2.CampaignState]
    Sign: grpc.UnaryUnaryMultiCallable[relay_pb2.Signature, relay_pb2.CampaignState]
    Withdraw: grpc.UnaryUnaryMultiCallable[relay_pb2.Withdrawal, relay_pb2.CampaignState]
    Look: grpc.UnaryUnaryMultiCallable[relay_pb2.LookRequest, relay_pb2.LookReply]
    Attend: grpc.StreamStreamMultiCallable[relay_pb2.FromNode, relay_pb2.ToNode]
    Forward: grpc.StreamStreamMultiCallable[relay_pb2.Frame, relay_pb2.Frame]

class RelayAsyncStub(RelayStub):  # a type only: what RelayStub is on an asyncio channel
    Join: grpc.aio.UnaryUnaryMultiCallable[relay_pb2.JoinRequest, relay_pb2.JoinReply]  # type: ignore[assignment]
    Post: grpc.aio.UnaryUnaryMultiCallable[relay_pb2.PostRequest, relay_pb2.PostReply]  # type: ignore[assignment]
    Collect: grpc.aio.UnaryUnaryMultiCallable[relay_pb2.CollectRequest, relay_pb2.CollectReply]  # type: ignore[assignment]
    File: grpc.aio.UnaryUnaryMultiCallable[relay_pb2.Docket, relay_pb2.CampaignState]  # type: ignore[assignment]
    Sign: grpc.aio.UnaryUnaryMultiCallable[relay_pb2.Signature, relay_pb2.CampaignState]  # type: ignore[assignment]
    Withdraw: grpc.aio.UnaryUnaryMultiCallable[relay_pb2.Withdrawal, relay_pb2.CampaignState]  # type: ignore[assignment]
    Look: grpc.aio.UnaryUnaryMultiCallable[relay_pb2.LookRequest, relay_pb2.LookReply]  # type: ignore[assignment]
    Attend: grpc.aio.StreamStreamMultiCallable[relay_pb2.FromNode, relay_pb2.ToNode]  # type: ignore[assignment]
    Forward: grpc.aio.StreamStreamMultiCallable[relay_pb2.Frame, relay_pb2.Frame]  # type: ignore[assignment]

class RelayServicer:
    async def Join(self, request: relay_pb2.JoinRequest, context: grpc.aio.ServicerContext[relay_pb2.JoinRequest, relay_pb2.JoinReply]) -> relay_pb2.JoinReply: ...
    async def Post(self, request: relay_pb2.PostRequest, context: grpc.aio.ServicerContext[relay_pb2.PostRequest, relay_pb2.PostReply]) -> relay_pb2.PostReply: ...
    async def Collect(self, request: relay_pb2.CollectRequest, context: grpc.aio.ServicerContext[relay_pb2.CollectRequest, relay_pb2.CollectReply]) -> relay_pb2.CollectReply: ...
    async def File(self, request: relay_pb2.Docket, context: grpc.aio.ServicerContext[relay_pb2.Docket, relay_pb2.CampaignState]) -> relay_pb2.CampaignState: ...
    async def Sign(self, request: relay_pb2.Signature, context: grpc.aio.ServicerContext[relay_pb2.Signature, relay_pb2.CampaignState]) -> relay_pb2.CampaignState: ...
    async def Withdraw(self, request: relay_pb2.Withdrawal, context: grpc.aio.ServicerContext[relay_pb2.Withdrawal, relay_pb2.CampaignState]) -> relay_pb2.CampaignState: ...
    async def Look(self, request: relay_pb2.LookRequest, context: grpc.aio.ServicerContext[relay_pb2.LookRequest, relay_pb2.LookReply]) -> relay_pb2.LookReply: ...
    def Attend(self, request_iterator: AsyncIterator[relay_pb2.FromNode], context: grpc.aio.ServicerContext[relay_pb2.FromNode, relay_pb2.ToNode]) -> AsyncIterator[relay_pb2.ToNode]: ...
    def Forward(self, request_iterator: AsyncIterator[relay_pb2.Frame], context: grpc.aio.ServicerContext[relay_pb2.Frame, relay_pb2.Frame]) -> AsyncIterator[relay_pb2.Frame]: ...

def add_RelayServicer_to_server(servicer: RelayServicer, server: grpc.aio.Server) -> None: ...
