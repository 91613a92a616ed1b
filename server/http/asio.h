// The parts of Asio that coroutines here use. Boost 1.74 needs <utility> before awaitable.hpp.
#pragma once

// clang-format off
#include <utility>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
// clang-format on

namespace sluice::server {

namespace asio = boost::asio;

}  // namespace sluice::server
